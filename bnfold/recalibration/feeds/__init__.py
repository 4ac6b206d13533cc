"""Data for a model without PyTorch: what the model says it takes, and arrays or images that are brought to it."""
