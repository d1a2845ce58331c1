"""Each family is exported with a dynamic batch axis, and onnxruntime gives the same answers."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from edgedl.train.networks.deploy import deployed
from edgedl.train.networks.trial import example
from tests.train.networks.cases import CASES, Case, Inputs
from tests.train.networks.made import made

# What compression should never have to look at: leftovers of how torch writes attention, sizes that
# are computed, and branches.
UNWANTED = {"IsNaN", "If", "Loop", "Scan", "NonZero", "ScatterND", "Einsum"}


def exported(network: nn.Module, inputs: Inputs) -> onnx.ModelProto:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            example(inputs, 2),
            dynamic_shapes=tuple({0: batch} for _ in inputs),
            opset_version=18,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def flat(answer: Any) -> list[Tensor]:
    return list(answer.values()) if isinstance(answer, dict) else [answer]


@pytest.mark.parametrize("case", [case for case in CASES if case.exported], ids=str)
def test_onnx_answers_as_torch_does(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = made(case, monkeypatch)
    settle(trained)
    network, inputs = deployed(trained.eval(), case.inputs)
    model = exported(network.eval(), dict(inputs))
    operators = [node.op_type for node in model.graph.node]
    assert not UNWANTED & set(operators)
    for name in ("LSTM", "GRU"):  # one operator a layer, not one a step
        layers = case.settings.get("layers", 1) if name.lower() in case.name else 0
        assert operators.count(name) == layers
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    assert len(session.get_inputs()) == len(inputs)
    for batch in (1, 3):
        feeds = example(inputs, batch)
        names = [one.name for one in session.get_inputs()]
        given = session.run(None, {n: v.numpy() for n, v in zip(names, feeds, strict=True)})
        with torch.no_grad():
            wanted = flat(network(*feeds))
        assert len(given) == len(wanted)
        for one, other in zip(given, wanted, strict=True):
            assert one.shape == tuple(other.shape)
            np.testing.assert_allclose(one, other.numpy(), rtol=1e-4, atol=1e-4)
            assert batch == 1 or np.ptp(one) > 1e-4  # answers that say something


def settle(network: nn.Module) -> None:
    """Normalisations away from where they begin, so that folding them is seen, and last layers
    large enough to be compared."""
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                for value in (module.running_var, module.weight):
                    assert value is not None
                    value.copy_(0.5 + torch.rand(value.shape, generator=random))
                for value in (module.running_mean, module.bias):
                    assert value is not None
                    value.copy_(0.2 * torch.randn(value.shape, generator=random))
            elif isinstance(module, nn.Linear):
                module.weight.copy_(0.5 * torch.randn(module.weight.shape, generator=random))
            elif isinstance(module, nn.Conv2d) and module.bias is not None:
                module.weight.copy_(0.2 * torch.randn(module.weight.shape, generator=random))
