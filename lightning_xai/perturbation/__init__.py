"""Inputs with pixels hidden, blended or noised, and the one loop that shows them to a target."""
