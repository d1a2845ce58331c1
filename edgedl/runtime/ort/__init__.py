"""onnxruntime as engines of this toolkit: on the processor, and by its providers on a GPU."""
