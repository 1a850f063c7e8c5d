"""One source layout a file."""
