"""Models are run, checked and timed where there is numpy and one engine, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import edgedl
from edgedl.backends import backend
from edgedl.core.engines import package_of
from edgedl.passes.graph import to_ship
from edgedl.runtime import ENGINES, installed_engines
from edgedl.runtime.golden import Answer, Golden
from edgedl.runtime.process import Processing
from edgedl.runtime.writing import Contents, write_bundle
from tests.models import answers, conv_net, feeds, saved

REFUSED = ["torch", "onnx", "onnx_ir", "onnxscript", "yaml", "click", "google.protobuf", "PIL"]
REFUSED += ["cryptography"]
REFUSE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name in {refused!r} or name.split(".")[0] in {refused!r}:
            raise ModuleNotFoundError(f"{{name}} is refused here", name=name)

sys.meta_path.insert(0, Refuse())
"""
OPEN = """
import sys
import numpy as np
import edgedl
with np.load(sys.argv[2]) as given:
    feed, wanted = {"x": given["x"]}, given["logits"]
with edgedl.open(sys.argv[1], threads=1) as session:
    answer = session.run(feed)["logits"]
assert np.allclose(answer, wanted, atol=1e-4), (answer, wanted)
assert edgedl.check(sys.argv[1]).ok
print("answered")
"""
VERBS = """
import json, sys
import edgedl
model, bundle, samples, output, engine = sys.argv[1:]
rates = {"batches": [1], "streams": [1], "seconds": 0.3}
modes = {"profile": {"seconds": 0.3}, "throughput": rates}
found = edgedl.bench([model, bundle], target=engine, samples=samples, seconds=0.5, modes=modes)
scored = edgedl.eval([model, bundle], samples, target=engine)
for path in (model, bundle):
    assert edgedl.run(path, samples, output, target=engine) == 4
assert edgedl.check(bundle).ok
assert engine in [row["name"] for row in edgedl.doctor()["engines"] if row["version"]]
for needs_more in (
    lambda: edgedl.inspect(model),
    lambda: edgedl.bench([model], shapes={"x": (1, 3, 8, 8)}),
    lambda: edgedl.compress(model, samples, output),
):
    try:
        needs_more()
    except edgedl.EdgeError as error:
        assert "pip install 'edgedl[build]'" in error.hint, (error, error.hint)
    else:
        raise AssertionError("it needs onnx")
print(json.dumps({"bench": found.to_json(), "eval": scored}))
"""


SIGNED = """
import sys
import edgedl
signed, sealed, trusted, other = sys.argv[1:]
with edgedl.open(signed, threads=1, trust=trusted) as session:
    assert session.signature.inputs
assert edgedl.verify(signed, trusted).proofs[0].statement.signer == "alice"
for way_in in (edgedl.open, edgedl.check, edgedl.verify):
    try:
        way_in(signed, trust=other)
    except edgedl.EdgeError as error:
        assert "nobody who is trusted" in error.message, error
    else:
        raise AssertionError("nobody trusted signed it")
for needs_more in (
    lambda: edgedl.open(sealed, trust=trusted, key=lambda name: bytes(32)),
    lambda: edgedl.keygen("alice"),
    lambda: edgedl.sign(signed, "alice.key"),
    lambda: edgedl.encrypt(signed, bytes(32), sealed),
):
    try:
        needs_more()
    except edgedl.EdgeError as error:
        assert error.hint == "pip install 'edgedl[sign]'", (error, error.hint)
    else:
        raise AssertionError("it needs cryptography")
print("trusted")
"""


def installed_or_skipped(engine_name: str) -> str:
    if engine_name not in installed_engines():
        pytest.skip(f"{engine_name} is not installed")
    return engine_name


def bare(folder: Path, engine_name: str, words: Sequence[object], *allowed: str) -> str:
    """What `python WORDS` prints where it and every process that it starts may import numpy, one
    engine and what is allowed beside them."""
    module = package_of(engine_name)
    refused = {*REFUSED, *ENGINES} - {module, *allowed}
    place = folder / "bare"
    place.mkdir(exist_ok=True)
    (place / "sitecustomize.py").write_text(REFUSE.format(refused=refused))
    paths = [str(place), str(Path(edgedl.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def net_and_bundle(
    folder: Path, engine_name: str, processing: Processing | None = None
) -> tuple[Path, Path]:
    """A model, a bundle of it, and `given.npz` with one input and its answer."""
    model = saved(conv_net(), folder)
    feed = feeds(model.signature, 1)[0]
    answer = answers(model.path, [feed], engine_name)[0]
    data, names = to_ship(model)
    write_bundle(
        folder / "net.edl",
        Contents(
            signature=model.signature,
            payloads=[(backend(engine_name).compile(data, "float32"), data)],
            golden=Golden((feed,), ({k: Answer.of(v) for k, v in answer.items()},), 0.01),
            history=(),
            notes={},
            names=names,
            processing=None if processing is None else processing.bind(model.signature),
        ),
    )
    np.savez(folder / "given.npz", **feed, **answer)
    return model.path, folder / "net.edl"


def labelled(folder: Path) -> Path:
    """Four samples with their classes."""
    rng = np.random.default_rng(0)
    arrays = rng.standard_normal((4, 3, 8, 8)).astype(np.float32)
    np.savez(folder / "samples.npz", x=arrays, labels=np.array([0, 1, 1, 0]))
    return folder / "samples.npz"


@pytest.mark.parametrize("engine_name", ENGINES)
def test_a_bundle_runs_on_numpy_and_one_engine(engine_name: str, tmp_path: Path) -> None:
    _, bundle = net_and_bundle(tmp_path, installed_or_skipped(engine_name))
    words = ["-c", OPEN, bundle, tmp_path / "given.npz"]
    assert bare(tmp_path, engine_name, words).strip() == "answered"


@pytest.mark.parametrize("engine_name", ENGINES)
def test_signatures_need_no_library(engine_name: str, tmp_path: Path) -> None:
    _, bundle = net_and_bundle(tmp_path, installed_or_skipped(engine_name))
    sealed = edgedl.encrypt(bundle, bytes(32), tmp_path / "sealed.edl").path
    for name in ("alice", "bob"):
        edgedl.keygen(tmp_path / name)
    for path in (bundle, sealed):
        edgedl.sign(path, tmp_path / "alice.key")
    words = ["-c", SIGNED, bundle, sealed, tmp_path / "alice.pub", tmp_path / "bob.pub"]
    assert bare(tmp_path, engine_name, words).strip() == "trusted"


@pytest.mark.parametrize("engine_name", ENGINES)
def test_a_device_times_runs_and_checks_what_it_is_given(engine_name: str, tmp_path: Path) -> None:
    model, bundle = net_and_bundle(tmp_path, installed_or_skipped(engine_name))
    samples, output = labelled(tmp_path), tmp_path / "answers.npz"
    words = ["-c", VERBS, model, bundle, samples, output, engine_name]
    found = json.loads(bare(tmp_path, engine_name, words).splitlines()[-1])
    assert not found["bench"]["failures"]
    for row in found["bench"]["rows"]:
        assert row["engine"] == engine_name
        assert row["latency_ms"]["p50"] > 0
        assert row["first_ms"] > 0
        assert row["profile"]
        assert row["accuracy"]["samples"] == 4
    assert found["eval"]["rows"][1]["agreement"]["top1"] == 1


@pytest.mark.parametrize("engine_name", ENGINES)
def test_a_devices_commands_need_click_beside_them(engine_name: str, tmp_path: Path) -> None:
    model, bundle = net_and_bundle(tmp_path, installed_or_skipped(engine_name))
    samples, output = labelled(tmp_path), tmp_path / "answers.npz"
    common = ["--target", engine_name]
    for words in (
        ["bench", model, bundle, *common, "--seconds", 0.5, "--report", tmp_path / "report"],
        ["eval", model, bundle, *common, "--samples", samples],
        ["run", bundle, *common, "--input", samples, "--output", output],
        ["check", bundle],
    ):
        assert bare(tmp_path, engine_name, ["-m", "edgedl", *words], "click")
    with np.load(output) as saved_answers:
        assert saved_answers["logits"].shape == (4, 5)
