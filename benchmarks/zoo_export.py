"""Writes torch modules as ONNX files without traces of the machine, the same bytes every time."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

OPSET = 18


def export(
    network: torch.nn.Module,
    example: Mapping[str, NDArray[Any]],
    output: str,
    path: Path,
) -> None:
    """Writes the network at `path`, its inputs like the example's, with a dynamic first axis."""
    network.eval()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    arguments = tuple(torch.from_numpy(np.repeat(value, 2, axis=0)) for value in example.values())
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            arguments,
            input_names=list(example),
            output_names=[output],
            opset_version=OPSET,
            dynamic_shapes=tuple({0: torch.export.Dim("batch")} for _ in example),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    # The exporter notes for each node the source lines, with their paths, that it came from.
    for owner in (model, model.graph, *model.graph.node, *model.graph.value_info):
        owner.ClearField("metadata_props")
        owner.ClearField("doc_string")
    onnx.checker.check_model(model)
    onnx.save(model, path)
