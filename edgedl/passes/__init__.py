"""Passes: an ONNX model in, an ONNX model out."""

PASSES = {
    "clean": "edgedl.passes.clean:Clean",
    "dynamic": "edgedl.passes.dynamic:Dynamic",
    "fold": "edgedl.passes.fold:Fold",
    "quantize": "edgedl.passes.quantize:Quantize",
    "shapes": "edgedl.passes.shapes:Shapes",
    "unquantize": "edgedl.passes.unquantize:Unquantize",
    "weight_only": "edgedl.passes.weight_only:WeightOnly",
}
