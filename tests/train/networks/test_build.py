"""Networks are found by name, read their settings, and are tried before they are given out."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from edgedl.core.errors import BadValue, Missing
from edgedl.train.networks import NETWORKS, build, factory_of
from edgedl.train.networks.mlp import mlp
from edgedl.train.networks.settings import read, settings_of
from edgedl.train.networks.trial import example
from edgedl.train.shapes import TensorShape
from tests.train.networks.cases import CASES, IMAGE, PAIR, SERIES, TEXT, Case, Inputs
from tests.train.networks.made import made

OWN = """
import torch
from torch import nn

def linear(inputs, outputs, *, depth: int = 1, scales: list = [1.0], anything=None):
    [shape] = inputs.values()
    return nn.Sequential(nn.Flatten(), *(nn.Linear(shape.size, shape.size) for _ in range(depth)),
                         nn.Linear(shape.size, outputs))

class Whole(nn.Module):
    def __init__(self, inputs, outputs, wide: int, deep: int = 2):
        super().__init__()
        self.layer = nn.LazyLinear(outputs)
        self.told = wide, deep
        self.eval()
    def forward(self, x):
        return self.layer(x.flatten(1))

def loose(inputs, outputs, **rest):
    network = linear(inputs, outputs)
    network.rest = rest
    return network

def one_too_many(inputs, outputs):
    return linear(inputs, outputs + 1)

def bare(inputs, outputs):
    return lambda x: x

def broken(inputs, outputs):
    raise KeyError("lost")

def stumbles(inputs, outputs):
    return nn.Linear(5, outputs)

def without_batch(inputs, outputs):
    class Sum(nn.Module):
        def forward(self, x):
            return x.sum()
    return Sum()

def talks(inputs, outputs):
    class Talk(nn.Module):
        def forward(self, x):
            return {"text": "hello"}
    return Talk()

def shy():
    return None

width = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(name: str, inputs: Inputs, outputs: int, **settings: Any) -> BadValue:
    with pytest.raises(BadValue) as found:
        build(name, inputs, outputs, settings)
    assert found.value.hint
    return found.value


@pytest.mark.parametrize("case", CASES, ids=str)
def test_all_of_it_learns(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    network = made(case, monkeypatch)
    assert network.training
    # Ids from 0 to 1 may not meet every row of an embedding, but every parameter is used.
    answer = network(*example(case.inputs, 4))
    parts = list(answer.values()) if isinstance(answer, dict) else [answer]
    sum(part.square().sum() + part.sum() for part in parts).backward()
    for name, one in network.named_parameters():
        assert one.grad is not None, name
        assert torch.isfinite(one.grad).all(), name
    assert any(one.grad.abs().sum() > 0 for one in network.parameters())


def test_every_name_has_a_case() -> None:
    tried = {case.name for case in CASES}
    lites = {f"efficientnet_lite{i}" for i in range(1, 5)}
    # what a file brings has tests of its own
    untried = set(NETWORKS) - lites - {"timm", "onnx"} - tried
    assert not untried, f"no `Case` in tests/train/networks/cases.py for {', '.join(untried)}"
    assert tried <= set(NETWORKS)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_setting_has_a_type_that_is_checked_and_most_a_default(name: str) -> None:
    fields = dataclasses.fields(settings_of(factory_of(name)))
    assert all(one.type is not Any for one in fields)
    assert {one.name for one in fields if one.default is dataclasses.MISSING} <= {"model", "file"}


def test_the_same_seed_draws_the_same_weights_and_the_trial_draws_none() -> None:
    inputs = {"x": TensorShape((4,))}
    torch.manual_seed(3)
    first = build("mlp", inputs, 2, {"dropout": 0.5})
    after = torch.rand(1)
    torch.manual_seed(3)
    second = mlp(inputs, 2, dropout=0.5)
    assert torch.equal(after, torch.rand(1))
    for one, other in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_nothing_heavy_is_imported_before_a_network_is_made() -> None:
    code = (
        "import sys, edgedl.train.networks as n; n.NETWORKS; print('torch' in sys.modules);"
        "n.factory_of('mlp'); print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "False"]


def test_names_and_settings_have_nearest_relatives() -> None:
    error = refused("resnet9", IMAGE, 3)
    assert str(error) == "unknown network `resnet9`"
    assert "did you mean `resnet8`?" in str(error.hint)
    assert "module:callable" in str(error.hint)
    assert error.keys == ("name",)
    error = refused("resnet8", IMAGE, 3, widht=3)
    assert str(error) == "network `resnet8`: unknown key `widht`"
    assert "did you mean `width`?" in str(error.hint)
    assert error.keys == ("widht",)


@pytest.mark.parametrize(
    ("name", "inputs", "settings", "said"),
    [
        ("resnet8", IMAGE, {"width": "wide"}, "`width` wants a whole number, not `wide`"),
        ("resnet8", IMAGE, {"width": True}, "`width` wants a whole number, not `true`"),
        ("resnet8", IMAGE, {"width": 0}, "`width` is 0"),
        ("resnet18", IMAGE, {"stem": "big"}, "`stem` is `big`"),
        ("resnet18", IMAGE, {"dropout": 1.0}, "`dropout` is 1.0"),
        ("mobilenetv2", IMAGE, {"alpha": -1}, "`alpha` is -1.0"),
        ("vit", IMAGE, {"patch": 3}, "holds no whole number of patches of 3"),
        ("vit", IMAGE, {"heads": 5}, "5 heads cannot share a width of 192"),
        ("unet", IMAGE, {"depth": 4}, "cannot be halved 4 times"),
        ("ssd", IMAGE, {"levels": 2}, "has no cells of 16 pixels"),
        ("ssd", IMAGE, {"largest": 0.05}, "`largest` leaves no anchors"),
        ("ssd", IMAGE, {"ratios": []}, "`ratios` leaves no anchors"),
        ("tcn", SERIES, {"kernel": 1}, "`kernel` is too small"),
        ("streaming_gru", SERIES, {"chunk": 13}, "`chunk` is 13"),
        ("mlp", SERIES, {"hidden": [4, 0]}, "`hidden` is 0"),
        ("text_encoder", TEXT, {"vocabulary": 19}, "`vocabulary` is 19"),
        ("transformers", TEXT, {}, "made of a `config` or a `folder`"),
        ("transformers", TEXT, {"config": "bert"}, "`config` wants keys with values"),
        ("transformers", TEXT, {"config": {}}, "lacks its `model_type`"),
        ("transformers", TEXT, {"config": {"model_type": "brt"}}, "no model type `brt`"),
        (
            "transformers",
            TEXT,
            {"config": {"model_type": "bert", "hiden_size": 8}},
            "configuration of `bert` has no `hiden_size`",
        ),
        ("transformers", TEXT, {"folder": "nowhere"}, "`nowhere` has no config.json"),
        (
            "transformers",
            TEXT,
            {"config": {"model_type": "bert"}, "model": "BertForSequences"},
            "no class `BertForSequences`",
        ),
    ],
)
def test_settings_that_cannot_be(
    name: str, inputs: Inputs, settings: dict[str, Any], said: str
) -> None:
    error = refused(name, inputs, 3, **settings)
    assert str(error).startswith(f"network `{name}`")
    assert said in str(error)
    if settings and name != "transformers":
        assert error.keys[0] in settings


@pytest.mark.parametrize(
    ("name", "inputs", "said"),
    [
        ("resnet8", SERIES, "takes one image, channels x height x width, and the data has `x`"),
        ("resnet8", {**IMAGE, **SERIES}, "(float32 of 1 x 8 x 8), `x` (float32 of 3 x 12)"),
        ("resnet8", {"x": TensorShape((1, 8, 8), "int64")}, "int64 of 1 x 8 x 8"),
        ("ds_cnn", {"x": TensorShape((9,))}, "takes a sound's features"),
        ("lstm", IMAGE | SERIES, "takes one series"),
        ("gru", {"x": TensorShape((2, 3, 4))}, "takes one series"),
        ("mlp", TEXT, "takes one row of numbers"),
        ("text_encoder", SERIES, "takes one row of token ids"),
        ("text_encoder", {"t": TensorShape((6,), "int64")}, "how many different ids `t` has"),
        ("two_tower", TEXT, "takes a user's id and an item's"),
        ("streaming_gru", {"state": TensorShape((3, 12))}, "an input named `state`"),
    ],
)
def test_inputs_that_are_of_another_kind(name: str, inputs: Inputs, said: str) -> None:
    assert said in str(refused(name, inputs, 3))


def test_outputs_that_are_of_another_kind() -> None:
    for name, inputs in (("resnet8", IMAGE), ("lstm", SERIES), ("mlp", SERIES), ("ssd", IMAGE)):
        assert "this data has none" in str(refused(name, inputs, 0))
    assert "wants 3 answers" in str(refused("autoencoder", SERIES, 3))
    assert "wants 2 answers" in str(refused("two_tower", PAIR, 2))


@pytest.mark.parametrize("spec", ["mine.py:linear", "mine:linear"])
def test_ones_own(own: Path, spec: str) -> None:
    network = build(spec, SERIES, 3, {"depth": 2, "scales": [1, 2], "anything": {"a": 1}})
    assert sum(isinstance(one, torch.nn.Linear) for one in network.modules()) == 3
    assert "unknown key `dept`" in str(refused(spec, SERIES, 3, dept=2))
    assert "`depth` wants a whole number" in str(refused(spec, SERIES, 3, depth=2.5))


def test_ones_own_class_and_open_settings(own: Path) -> None:
    network: Any = build("mine:Whole", SERIES, 3, {"wide": 7})
    assert network.told == (7, 2)
    assert not network.training  # as it was given
    assert "lacks `wide`" in str(refused("mine:Whole", SERIES, 3))
    network = build("mine:loose", SERIES, 3, {"any": 1, "thing": [2]})
    assert network.rest == {"any": 1, "thing": [2]}


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("mine:linaer", "`mine` has no `linaer`"),
        ("mine:width", "cannot be called"),
        ("mine:shy", "cannot be called with inputs and outputs"),
        ("none_such:linear", "no module `none_such`"),
        ("gone.py:linear", "no file `gone.py`"),
        (":linear", "names no network"),
        ("mine:broken", "cannot be made for `x` (float32 of 3 x 12): KeyError: 'lost' (mine.py:"),
        ("mine:bare", "is a function, not a torch.nn.Module"),
        ("mine:stumbles", "fails on a batch of `x` 2 x 3 x 12: RuntimeError"),
        ("mine:one_too_many", "answers `x` 2 x 3 x 12 with 2 x 4, where 3 answers a sample"),
        ("mine:without_batch", "with one number, where a batch of 2 comes first"),
        ("mine:talks", "answers with str, not with tensors"),
    ],
)
def test_ones_own_that_fails(own: Path, spec: str, said: str) -> None:
    assert said in str(refused(spec, SERIES, 3))


def test_what_reconstructs_gives_the_inputs_shape(own: Path) -> None:
    error = refused("mine:one_too_many", SERIES, 0)
    assert "with 2 x 1, not with the 2 x 3 x 12 that it is to reconstruct" in str(error)


def test_entry_points_are_looked_up(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = own / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[edgedl.networks]\ntheirs = mine:linear\n")
    monkeypatch.syspath_prepend(str(own))
    assert build("theirs", SERIES, 3, {"depth": 2})(torch.zeros(5, 3, 12)).shape == (5, 3)
    assert "did you mean `theirs`?" in str(refused("their", SERIES, 3).hint)


def test_settings_are_read_as_their_types(own: Path) -> None:
    chosen = read(factory_of("mlp"), {"hidden": 8, "dropout": "1/4"})
    assert chosen == {"hidden": (8,), "dropout": 0.25}


def test_shapes_that_hold_nothing() -> None:
    with pytest.raises(BadValue, match="3 x 0"):
        TensorShape((3, 0))
    with pytest.raises(BadValue, match="no such type as `floating`"):
        TensorShape((3,), "floating")
    with pytest.raises(BadValue, match="no such type as `float`"):
        TensorShape((3,), "float")
    assert str(TensorShape((3, 4))) == "float32 of 3 x 4"
    assert str(TensorShape((), "int64")) == "int64 of one number"
    assert TensorShape((3, 4)).size == 12
    assert TensorShape(()).size == 1


TIMM = """
from torch import nn

class Known:
    def __init__(self, fixed): self.fixed_input_size = fixed

def is_model(name): return name in list_models()
def list_models(): return ["plain_net", "fixed_net"]
def get_pretrained_cfg(name): return Known(name.startswith("fixed"))
def create_model(name, pretrained, num_classes, in_chans, **rest):
    assert not pretrained
    network = nn.Sequential(nn.Conv2d(in_chans, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                            nn.Linear(4, num_classes))
    network.rest = rest
    return network
"""


def test_timm_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A stand-in with timm's own functions, which cannot be installed beside every torch.
    (tmp_path / "timm.py").write_text(TIMM)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    try:
        network: Any = build("timm", IMAGE, 3, {"model": "plain_net", "options": {"drop_rate": 1}})
        assert network.rest == {"drop_rate": 1}
        network = build("timm", IMAGE, 3, {"model": "fixed_net"})
        assert network.rest == {"img_size": (8, 8)}
        assert "timm has no model `plan_net`" in str(refused("timm", IMAGE, 3, model="plan_net"))
        weights = tmp_path / "w.safetensors"
        save_file(network.state_dict(), weights)
        again: Any = build("timm", IMAGE, 5, {"model": "plain_net", "weights": str(weights)})
        assert torch.equal(again[0].weight, network[0].weight)
        assert again[3].weight.shape == (5, 4)
        save_file({"other": torch.zeros(1)}, weights)
        error = refused("timm", IMAGE, 3, model="plain_net", weights=str(weights))
        assert "fits 0 of the network's 4 tensors" in str(error)
        weights.write_bytes(b"nothing")
        error = refused("timm", IMAGE, 3, model="plain_net", weights=str(weights))
        assert "holds no safetensors weights" in str(error)
    finally:
        sys.modules.pop("timm", None)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise ModuleNotFoundError(\"No module named 'timm'\", name='timm')", "which is not"),
        ("raise RuntimeError('operator torchvision::nms does not exist')", "torchvision::nms"),
    ],
)
def test_timm_that_cannot_be_imported(
    code: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "timm.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    with pytest.raises(Missing, match=said) as found:
        build("timm", IMAGE, 3, {"model": "resnet18"})
    assert "pip install timm" in str(found.value.hint)
