"""Networks as ONNX files, and the proof that both answer alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from edgedl.core.errors import BadValue, Unsupported, WrongAnswers
from edgedl.export import _program as program_of
from edgedl.export import export, prove
from edgedl.runtime import any_engine


class Small(torch.nn.Module):
    """A convolution with batch normalisation, and a recurrent layer behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.front = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.ReLU()
        )
        self.memory = torch.nn.GRU(4, 6, batch_first=True)
        self.head = torch.nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.front(x).mean(2).transpose(1, 2)
        made: torch.Tensor = self.head(self.memory(rows)[0][:, -1])
        return made


class Traced(torch.nn.Module):
    """Computes otherwise while it is exported."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 1.5 * x if torch.compiler.is_exporting() else x.relu()


class Branching(torch.nn.Module):
    """Looks at a value before it goes on."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if float(x.sum()) > 0 else -x


class Step(torch.nn.Module):
    """One step of a recurrent cell whose state comes and goes by name."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = torch.nn.GRUCell(3, 4)

    def forward(self, x: torch.Tensor, state: torch.Tensor) -> dict[str, torch.Tensor]:
        after = self.cell(x, state)
        return {"answer": after.sum(dim=1, keepdim=True), "state_after": after}


class Unbatched(torch.nn.Module):
    """Only ever takes one sample."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(2, 4).relu().reshape(1, 8)


def feeds(count: int = 3, *shape: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    shape = shape or (3, 8, 8)
    return [{"x": rng.standard_normal((1, *shape)).astype(np.float32)} for _ in range(count)]


def test_an_export_answers_as_the_network_and_takes_any_batch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Small().train()
    found = export(network, feeds(), tmp_path / "net.onnx", outputs=["logits"])
    assert network.training
    assert found.outputs == ("logits",)
    assert (found.samples, found.doubts) == (3, ())
    assert 0 <= found.difference < 1e-5
    whole = {"x": np.concatenate([feed["x"] for feed in feeds(7)])}
    with any_engine().open_model(found.path, settings={}) as session:
        made = session.run(whole)["logits"]
    wanted = network.eval()(torch.from_numpy(whole["x"])).detach().numpy()
    np.testing.assert_allclose(made, wanted, atol=1e-5)


def test_state_goes_in_and_out_by_name(tmp_path: Path) -> None:
    state = {"x": np.ones((1, 3), np.float32), "state": np.zeros((1, 4), np.float32)}
    found = export(Step(), [state], tmp_path / "step.onnx")
    assert found.outputs == ("answer", "state_after")
    net = onnx.load(found.path)
    assert [value.name for value in net.graph.input] == ["x", "state"]
    assert [value.name for value in net.graph.output] == ["answer", "state_after"]


def test_further_axes_are_free_by_name(tmp_path: Path) -> None:
    found = export(
        torch.nn.Conv1d(2, 3, 3), feeds(1, 2, 9), tmp_path / "a.onnx", axes={"x": {2: "time"}}
    )
    axes = onnx.load(found.path).graph.input[0].type.tensor_type.shape.dim
    assert [axis.dim_param or axis.dim_value for axis in axes] == ["batch", 2, "time"]
    with any_engine().open_model(found.path, settings={}) as session:
        assert session.run({"x": np.zeros((2, 2, 20), np.float32)})["output"].shape == (2, 3, 18)


class Both(torch.nn.Module):
    """Takes any number of inputs."""

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return torch.cat(inputs, dim=1).relu()


def test_a_network_of_any_number_of_inputs_takes_any_batch(tmp_path: Path) -> None:
    feed = {name: np.ones((1, 3), np.float32) for name in ("a", "b")}
    found = export(Both(), [feed, feed], tmp_path / "both.onnx")
    assert found.doubts == ()
    with any_engine().open_model(found.path, settings={}) as session:
        pair = {name: np.ones((5, 3), np.float32) for name in feed}
        assert session.run(pair)["output"].shape == (5, 6)


def test_what_takes_one_sample_only_is_exported_for_one_and_that_is_said(tmp_path: Path) -> None:
    found = export(Unbatched(), feeds(2, 8), tmp_path / "a.onnx")
    [doubt] = found.doubts
    assert doubt.startswith("the batch axis is fixed to 1: ")


def test_the_first_operator_that_differs_is_named(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Small().eval()
    path = tmp_path / "net.onnx"
    export(network, feeds(), path)
    two = {"x": np.concatenate([feed["x"] for feed in feeds(2)])}
    program = program_of(network, two, ["output"], {"x": {0: "batch"}}, {}, None)
    net = onnx.load(path)
    [head] = [tensor for tensor in net.graph.initializer if tensor.name == "head.weight"]
    head.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(head), head.name))
    onnx.save(net, path)
    with pytest.raises(WrongAnswers, match=r"`output` of the exported.*Gemm `\w+` is the first"):
        prove(network, program, path, feeds())
    [bias] = [tensor for tensor in net.graph.initializer if list(tensor.dims) == [4]]
    bias.CopyFrom(numpy_helper.from_array(1 + numpy_helper.to_array(bias), bias.name))
    onnx.save(net, path)
    with pytest.raises(WrongAnswers, match=r"Conv `\w+` is the first that differs, in `front.1`"):
        prove(network, program, path, feeds())


def test_a_network_that_tracing_changes_is_told_from_a_wrong_operator(tmp_path: Path) -> None:
    with pytest.raises(WrongAnswers, match="tracing changed the network"):
        export(Traced(), feeds(), tmp_path / "net.onnx")


def test_what_cannot_be_traced_says_why_and_leaves_no_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Unsupported, match=r"cannot be exported.*\(test_export\.py:\d+\)") as caught:
        export(Branching(), feeds(), tmp_path / "net.onnx")
    assert caught.value.hint is not None
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_samples_and_names_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    with pytest.raises(BadValue, match="no samples"):
        export(Small(), [], path)
    with pytest.raises(BadValue, match="2 names for 1 outputs"):
        export(Small(), feeds(), path, outputs=["a", "b"])
    with pytest.raises(BadValue, match="no input `y`"):
        export(Small(), feeds(), path, axes={"y": {2: "time"}})
    with pytest.raises(Unsupported, match="does not take its samples"):
        export(Small(), feeds(1, 5, 8, 8), path)
