"""Answers of one ONNX file by onnxruntime, with nothing but that and numpy: for foreign processors.

python foretell_run.py MODEL.onnx SAMPLES.npz OUT.npz
"""

import sys

import numpy as np
import onnxruntime


def main(model: str, samples: str, out: str) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    with np.load(samples) as arrays:
        given = {tensor.name: arrays[tensor.name] for tensor in session.get_inputs()}
    first = session.get_outputs()[0].name
    count = len(next(iter(given.values())))
    rows = [
        session.run([first], {name: array[i : i + 1] for name, array in given.items()})[0]
        for i in range(count)
    ]
    np.savez(out, answers=np.concatenate(rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
