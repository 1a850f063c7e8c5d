"""Figures of images, maps and curves; nothing here knows a logger."""
