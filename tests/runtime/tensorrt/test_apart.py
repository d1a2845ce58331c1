"""What a child process may do to itself, and never to the application."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from edgedl.core.errors import BadModel, EdgeError, EngineFailed, Unsupported
from edgedl.runtime.tensorrt.apart import Task, done_apart, tried

WORK = "tests.runtime.tensorrt.fake_work"


def task(name: str, limit: float = 60) -> Task:
    return Task("building the engine", f"{WORK}:{name}", {"engine": "tensorrt"}, limit)


@pytest.mark.parametrize(
    ("name", "kind", "words", "advice"),
    [
        ("crash", EngineFailed, r"building the engine crashed \(SIGSEGV\) in a process of", "cpu"),
        ("killed", EngineFailed, "was killed, as the system does where memory is short", "swap"),
        ("abort", EngineFailed, "ran out of memory.*bad_alloc", "swap"),
        ("memory", EngineFailed, "too little memory", None),
        ("refuse", EngineFailed, "TensorRT 10.3.0 refuses the model: Foo `conv_3`", "rewrite it"),
        ("no_model", BadModel, "a.onnx: no such file", None),
        ("bug", EngineFailed, "ended with status 1: RuntimeError: something of its own", None),
    ],
)
def test_whatever_happens_there_is_an_error_in_words_here(
    name: str, kind: type[EdgeError], words: str, advice: str | None, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=words) as caught:
        done_apart(task(name), tmp_path)
    assert (advice or "") in (caught.value.hint or "")
    assert "\n" not in str(caught.value)


def test_work_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    seconds = iter(range(0, 10_000, 30))
    with pytest.raises(EngineFailed, match="took more than 60 s and was ended"):
        done_apart(task("hang"), tmp_path, clock=lambda: float(next(seconds)))


def test_work_that_is_cancelled_is_ended(tmp_path: Path) -> None:
    cancelled = threading.Event()
    told: list[str] = []

    def progress(label: str, done: int, total: int) -> None:
        told.append(label)
        cancelled.set()

    with pytest.raises(EngineFailed, match="was cancelled"):
        done_apart(task("hang"), tmp_path, progress=progress, cancelled=cancelled)
    assert told == ["building: for ever"]


def test_the_child_ends_when_its_parent_is_gone(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(f'{{"work": "{WORK}:hang"}}')
    command = [sys.executable, "-m", "edgedl.runtime.tensorrt.child", str(tmp_path)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    with child.stdin, child.stdout:
        assert child.stdout.readline()
        child.stdin.close()
        assert child.wait(60) == 9
    assert int((tmp_path / "pid").read_text()) == child.pid


def test_progress_and_what_was_made(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"a model for 10.3.0")
    settings: dict[str, Any] = {"engine": "tensorrt", "model": None, "detailed": True}
    told: list[tuple[str, int, int]] = []
    document = done_apart(
        Task("building", f"{WORK}:build", settings, 60),
        tmp_path,
        progress=lambda *a: told.append(a),
    )
    assert told == [("building: tactics", 1, 2), ("building: tactics", 2, 2)]
    assert document["detailed"] is True
    assert document["peak_rss_bytes"] > 0
    assert (tmp_path / "plan").read_bytes().startswith(b"plan")


def test_an_engine_of_unknown_origin_is_tried_apart() -> None:
    found = tried("tensorrt", b"plan", {"device": 0}, work=f"{WORK}:open_once")
    assert found["running"] == {"device": 0}
    with pytest.raises(EngineFailed, match=r"opening the engine crashed \(SIGSEGV\)"):
        tried("tensorrt", b"plan", work=f"{WORK}:crash")


@pytest.mark.skipif(
    any(Path("/dev", name).exists() for name in ("nvidiactl", "nvhost-gpu", "dxg")),
    reason="there is a GPU",
)
def test_the_real_trial_without_a_gpu_is_an_error_in_words() -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    with pytest.raises(Unsupported):
        tried("tensorrt_rtx", b"no plan at all")
