"""Sanity checks: do the maps of an explainer depend on the model and on the image?"""
