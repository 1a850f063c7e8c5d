"""One file a task, one function ``run(cfg, data, target)``."""
