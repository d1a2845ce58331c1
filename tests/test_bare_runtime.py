"""A bundle runs where there is numpy and one engine, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgedl.backends import backend
from edgedl.passes.graph import to_ship
from edgedl.runtime import ENGINES, installed_engines
from edgedl.runtime.bundle import write_bundle
from edgedl.runtime.golden import Answer, Golden
from tests.models import answers, conv_net, feeds, saved

REFUSED = ["torch", "onnx", "onnx_ir", "onnxscript", "yaml", "click", "google.protobuf", "PIL"]
BARE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name in REFUSED or name.split(".")[0] in REFUSED:
            raise ModuleNotFoundError(f"{name} is refused here", name=name)

REFUSED = set(sys.argv[3].split(","))
sys.meta_path.insert(0, Refuse())
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


@pytest.mark.parametrize("engine_name", ENGINES)
def test_a_bundle_runs_on_numpy_and_one_engine(engine_name: str, tmp_path: Path) -> None:
    if engine_name not in installed_engines():
        pytest.skip(f"{engine_name} is not installed")
    model = saved(conv_net(), tmp_path)
    feed = feeds(model.signature, 1)[0]
    answer = answers(model.path, [feed], engine_name)[0]
    data, names = to_ship(model)
    write_bundle(
        tmp_path / "net.edl",
        signature=model.signature,
        payloads=[(backend(engine_name).compile(data, "float32"), data)],
        golden=Golden((feed,), ({k: Answer.of(v) for k, v in answer.items()},), 0.01),
        history=(),
        notes={},
        names=names,
    )
    np.savez(tmp_path / "given.npz", **feed, **answer)
    refused = [*REFUSED, *(name for name in ENGINES if name != engine_name)]
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            BARE,
            tmp_path / "net.edl",
            tmp_path / "given.npz",
            ",".join(refused),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "answered", done.stderr
