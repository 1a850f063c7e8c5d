"""Comparison of explainers: statistics and tables."""
