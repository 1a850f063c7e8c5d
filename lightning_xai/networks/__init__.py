"""Mask generators and small targets."""
