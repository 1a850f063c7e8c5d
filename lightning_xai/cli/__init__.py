"""The command line: what a run does around training, and its tasks."""
