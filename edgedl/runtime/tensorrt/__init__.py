"""TensorRT and TensorRT-RTX on the device: engines are built there, from a portable model."""
