"""Faults of onnxruntime and of onnx, each as the smallest model that shows it: `python -m tests.benchmarks.upstream`"""
