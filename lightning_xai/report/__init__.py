"""Comparison of explainers: statistics, rankings, tables, and pages of HTML."""
