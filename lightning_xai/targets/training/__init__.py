"""Train a target that has no weights."""
