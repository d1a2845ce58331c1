"""What brings a process down is noted, and left out the next time."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedl.core.errors import EngineFailed
from edgedl.runtime import installed_engines
from edgedl.search.candidates import Candidate
from edgedl.search.memory import careful, open_carefully
from tests.models import conv_net, saved


def test_what_brought_the_process_down_is_not_opened_again(tmp_path: Path) -> None:
    model = saved(conv_net(), tmp_path)
    name = installed_engines()[0]
    candidate = Candidate(name, "float32", "float32", model, {"never": "opened"})
    begun = [careful(candidate) for _ in range(2)]
    for one in begun:
        one.__enter__()  # and never left, as in a process that crashed
    with (
        pytest.raises(EngineFailed, match="brought the process down") as caught,
        careful(candidate),
    ):
        pytest.fail("it was entered")
    assert "remove" in (caught.value.hint or "")
    other = Candidate(name, "float32", "float32", model, {"never": "crashed"})
    with careful(other):
        pass
    with careful(other):
        pass
    with pytest.raises(RuntimeError), careful(other):
        raise RuntimeError
    with careful(other):
        pass


def test_an_answer_is_part_of_what_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine may open a model and crash while it answers."""
    model = saved(conv_net(), tmp_path)
    name = installed_engines()[0]
    answered: list[bool] = []

    class Answering:
        def run(self, _: object) -> None:
            with pytest.raises(EngineFailed), careful(candidate):  # the second crash is known here
                pytest.fail("it was entered")
            answered.append(True)

        def close(self) -> None:
            """Nothing is open."""

    settings = {"never": "answered"}
    candidate = Candidate(name, "float32", "float32", model, settings)
    begun = careful(candidate)
    begun.__enter__()  # and never left, as in a process that crashed
    monkeypatch.setattr(Candidate, "open", lambda *_: Answering())
    open_carefully(name, model, settings, feed={})
    assert answered
