"""onnxruntime: providers and sessions, where nodes ran, what a machine lacks, copies of models made to be run."""
