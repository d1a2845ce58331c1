"""ONNX graphs as networks: layers that can be trained and cut, and functions between them."""
