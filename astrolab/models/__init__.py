"""Models: one model, one file; tensors in, tensors out."""
