"""Class activation maps of classifiers and segmenters."""
