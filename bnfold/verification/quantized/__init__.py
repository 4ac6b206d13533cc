"""Quantized networks: stretches between quantizers, and what onnxruntime's integer kernels do by themselves."""
