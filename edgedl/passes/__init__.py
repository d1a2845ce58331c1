"""Passes: an ONNX model in, an ONNX model out."""

# A pass is one file, one line here and one test file; `tests/contracts/test_passes.py` tries every
# one. What every model goes through is `prepare` in search/ready.py.
PASSES = {
    "clean": "edgedl.passes.clean:Clean",
    "dynamic": "edgedl.passes.dynamic:Dynamic",
    "equalize": "edgedl.passes.equalize:Equalize",
    "fold": "edgedl.passes.fold:Fold",
    "half": "edgedl.passes.half:Half",
    "quantize": "edgedl.passes.quantize:Quantize",
    "shapes": "edgedl.passes.shapes:Shapes",
    "smooth": "edgedl.passes.smooth:Smooth",
    "unquantize": "edgedl.passes.unquantize:Unquantize",
    "weight_only": "edgedl.passes.weight_only:WeightOnly",
    "widen": "edgedl.passes.widen:Widen",
}
