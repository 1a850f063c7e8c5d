"""The formulas behind the metrics: tensors in, tensors out, no state."""
