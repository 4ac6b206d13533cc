"""What a model computes in float64, by onnx's reference evaluator with the operators replaced that it gets wrong."""
