"""What an affine is, and how numbers round: no files, no onnxruntime."""
