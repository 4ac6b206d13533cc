"""An ONNX file: messages, where the bytes of each tensor lie, reading, writing, validity."""
