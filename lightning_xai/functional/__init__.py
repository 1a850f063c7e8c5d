"""Leaf functions of tensors and files; nothing here imports the project."""
