"""OpenVINO's CPU plugin as an engine of this toolkit: ONNX in, answers out."""
