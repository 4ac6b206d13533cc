"""What the two files prove by themselves: which tensors are the same for every input. Nothing is run on onnxruntime."""
