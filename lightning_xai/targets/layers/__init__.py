"""Layers inside a frozen model."""
