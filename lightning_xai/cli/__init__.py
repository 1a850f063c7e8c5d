"""What the command does around training: run folder, target cache, summary, tasks."""
