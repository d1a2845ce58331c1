"""`--isa`: OpenVINO as on a lesser processor."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgedl.benchmark.machine import this_machine
from edgedl.benchmark.unlike import unlike
from edgedl.cli import main
from edgedl.core.errors import BadOption
from edgedl.core.isa import ISA_CAPS, ISA_VARIABLE
from edgedl.core.target import PROCESSORS
from edgedl.runtime import installed_engines
from edgedl.search.foretold import can_foretell, is_run_as_there
from tests.models import conv_net, saved


def test_the_cap_is_part_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ISA_VARIABLE, raising=False)
    free = this_machine().to_json()
    monkeypatch.setenv(ISA_VARIABLE, "AVX2")
    capped = this_machine().to_json()
    assert capped["isa_cap"] == "AVX2"
    assert free["isa_cap"] is None
    assert any("AVX2" in sentence for sentence in unlike(free, capped))
    assert not any("cap" in sentence for sentence in unlike(free, free))


@pytest.mark.skipif("openvino" not in installed_engines(), reason="openvino is not installed")
@pytest.mark.parametrize("name", ISA_CAPS)
def test_openvino_offers_float32_only_under_a_cap(name: str) -> None:
    code = "from edgedl.runtime import engine; print(engine('openvino').precisions())"
    environment = {**os.environ, ISA_VARIABLE: ISA_CAPS[name]}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "('float32',)"


def test_instructions_that_are_not_here_are_not_pretended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under such a cap OpenVINO would run on fewer, and add in 16 bits."""
    without = dataclasses.replace(this_machine(), isa=("avx2", "avx512f", "avx512_vnni"))
    monkeypatch.setattr("edgedl.benchmark.machine.this_machine", lambda: without)
    monkeypatch.setenv(ISA_VARIABLE, "")
    with pytest.raises(SystemExit) as caught:
        main(["bench", "x.onnx", "--isa", "avx2_vnni"])
    assert caught.value.code == BadOption("").exit_status
    told = capsys.readouterr().err
    assert "error: --isa avx2_vnni: this processor has" in told
    assert "here can be had: avx2, avx512_vnni" in told
    with pytest.raises(SystemExit):
        main(
            ["compress", "x.onnx", "--target", "x86-avx2-vnni", "--samples", "s.npz", "-o", "o.edl"]
        )
    assert os.environ[ISA_VARIABLE] == ""
    processor = PROCESSORS["x86-avx2-vnni"]
    monkeypatch.setattr("edgedl.search.foretold.this_machine", lambda: without)
    assert can_foretell(processor, "openvino")
    monkeypatch.setenv(ISA_VARIABLE, "AVX2_VNNI")
    assert not is_run_as_there(processor, "openvino")
    with_it = dataclasses.replace(without, isa=(*without.isa, "avx_vnni"))
    monkeypatch.setattr("edgedl.search.foretold.this_machine", lambda: with_it)
    assert is_run_as_there(processor, "openvino")


@pytest.mark.skipif("openvino" not in installed_engines(), reason="openvino is not installed")
def test_bench_under_a_cap_says_so(tmp_path: Path) -> None:
    model = saved(conv_net(), tmp_path)
    command = [sys.executable, "-m", "edgedl", "bench", str(model.path), "--target", "openvino"]
    done = subprocess.run(
        [*command, "--isa", "avx2", "--seconds", "0.5", "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["machine"]["isa_cap"] == "AVX2"
