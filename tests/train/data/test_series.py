"""Streams to windows: labels, groups, time, forecasts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.core.errors import BadSamples
from edgedl.runtime.process.series import Series
from edgedl.train.data import Data, load
from edgedl.train.data.dataset import Dataset


def frames(count: int = 400, people: int = 8) -> str:
    rows = [
        f"{i},{(i * 7) % 11},{'run' if i // 10 % 2 else 'rest'},{i * people // count}"
        for i in range(count)
    ]
    return "\n".join(["x,y,label,person", *rows]) + "\n"


def opened(path: Path, **settings: Any) -> Dataset:
    settings = {"length": 5, **settings}
    return load(Data(series=str(path), **settings), seed=0, cache=path)


def written(folder: Path, text: str) -> Path:
    (folder / "a.csv").write_text(text)
    return folder / "a.csv"


def test_windows_by_person(tmp_path: Path) -> None:
    found = opened(written(tmp_path, frames()), group="person")
    assert found.inputs["series"].shape == (2, 5)
    assert found.train.classes == ("rest", "run")
    assert not any("bear two labels" in doubt for doubt in found.doubts)
    # ten windows a person, in order
    sides = [set(part.rows // 10) for part in (found.train, found.validation, found.test)]
    assert sum(map(len, sides)) == 8
    assert found.processing is not None
    row = int(found.test.rows[0])
    start = 5 * row
    raw = np.array([[i, (i * 7) % 11] for i in range(start, start + 5)])
    fed = found.test.feed(0)["series"]
    assert found.processing.before(raw)["series"] == pytest.approx(fed, abs=1e-6)
    before = found.processing.preprocess
    assert isinstance(before, Series)
    xs = np.concatenate([np.arange(5 * r, 5 * r + 5) for r in found.train.rows])
    assert before.mean[0] == pytest.approx(xs.mean())
    assert before.std[0] == pytest.approx(xs.std())


def test_without_groups_windows_are_split_in_time(tmp_path: Path) -> None:
    found = opened(written(tmp_path, frames()), columns=("x", "y"), length=4, hop=2)
    last = [max(part.rows) for part in (found.train, found.validation)]
    first = [min(part.rows) for part in (found.validation, found.test)]
    assert last[0] < first[0]
    assert last[1] < first[1]


def test_windows_of_two_labels_are_dropped_and_told(tmp_path: Path) -> None:
    found = opened(written(tmp_path, frames()), group="person", length=4, hop=4)
    assert any("bear two labels, or none, and were dropped" in doubt for doubt in found.doubts)


def test_a_forecast_by_hand(tmp_path: Path) -> None:
    found = opened(written(tmp_path, frames()), columns=("x", "y"), horizon=2, label="y", hop=1,
                   standardize=False)  # fmt: skip
    assert (found.task, found.outputs) == ("regression", 2)
    row = int(found.test.rows[0])
    assert found.test.chosen_labels is not None
    assert found.test.chosen_labels[0].tolist() == [(i * 7) % 11 for i in (row + 5, row + 6)]
    # a training window and what it forecasts ends before the first frame of validation
    assert max(found.train.rows) + 7 <= min(found.validation.rows)
    every = opened(tmp_path / "a.csv", columns=("x", "y"), horizon=2)
    assert every.outputs == 4


def test_archives_of_streams(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((400, 3), np.float32)
    np.savez(tmp_path / "a.npz", x=values, labels=np.arange(400) // 10 % 2,
             who=np.arange(400) // 50)  # fmt: skip
    found = opened(tmp_path / "a.npz", group="who")
    assert found.inputs["series"].shape == (3, 5)
    assert sum(len(set(p.rows // 10)) for p in (found.train, found.validation, found.test)) == 8


def test_files_of_a_folder_are_groups(tmp_path: Path) -> None:
    for i in range(6):
        rows = "\n".join(f"{i * 100 + j},{'ab'[j // 10 % 2]}" for j in range(40))
        (tmp_path / f"{i}.csv").write_text(f"x,label\n{rows}\n")
    found = opened(tmp_path)
    sides = [set(part.rows // 8) for part in (found.train, found.validation, found.test)]
    assert sum(map(len, sides)) == 6


def test_gaps_take_the_value_before(tmp_path: Path) -> None:
    text = frames().replace("\n0,0,", "\n,0,").replace("\n7,5,", "\n,5,")
    path = written(tmp_path, text)
    with pytest.raises(BadSamples, match="row 2 has no value in column `x`"):
        opened(path, columns=("x",))
    found = opened(path, columns=("x",), missing="mean", group="person")
    parts = (found.train, found.validation, found.test)
    fed = {int(r): p.feed(i)["series"][0, 0] for p in parts for i, r in enumerate(p.rows)}
    assert fed[0][0] == fed[0][1]
    assert fed[1][1] == fed[1][2]


@pytest.mark.parametrize(
    ("text", "settings", "says"),
    [
        (frames(), {"length": None}, "how many frames"),
        (frames(), {"group": "persons"}, "no column `persons`"),
        (frames(), {"horizon": 2, "label": "z", "columns": ("x",)}, "no column `z`"),
        (frames(), {"horizon": 2, "label": "y", "columns": ("x",)}, "no channel `y`"),
        (frames(), {"length": 500, "group": "person"}, "no window of 500 frames"),
        (frames(), {"length": 15, "group": "person"}, "the longest stream has 50 frames"),
        (frames(), {"missing": "drop", "columns": ("x",)}, "frames cannot be dropped"),
        (frames(), {"test": "b.csv"}, "or in time"),
        (frames().replace("\n5,2", "\nfive,2"), {"columns": ("x",)}, "row 7 has `five`"),
        (frames().replace("run", "rest"), {"group": "person"}, "one class, `rest`"),
    ],
)
def test_bad_series(text: str, settings: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(BadSamples, match=says) as caught:
        opened(written(tmp_path, text), **settings)
    assert caught.value.hint


def test_a_forecast_of_ones_own_table_begins_at_any_frame(tmp_path: Path) -> None:
    lines = [f"2020-{i},{1000 + i % 7},{i}" for i in range(400)]
    path = written(tmp_path, "date,sales,day\n" + "\n".join(lines) + "\n")
    with pytest.raises(BadSamples, match="column `date` holds texts, as `2020-0`") as caught:
        opened(path, label="sales", length=14, horizon=7)
    assert caught.value.hint == "`columns: [sales, day]`"
    found = opened(path, label="sales", columns=("sales",), length=14, horizon=7)
    # 380 windows in all; those that share a frame with the next part are left out
    assert len(found.test) == 76
    assert found.processing is not None
    assert found.standard is not None
    history = np.array([1000.0 + i % 7 for i in range(400)])
    place = list(found.test.rows).index(310)
    first = found.processing.before(history[310:324])["series"]
    assert np.array_equal(first, found.test.feed(place)["series"])
    # of a longer history, the last frames
    assert np.array_equal(found.processing.before(history[:324])["series"], first)
    assert found.test.chosen_labels is not None
    behind = found.standard.undone(found.test.chosen_labels[place])
    assert behind == pytest.approx(history[324:331], rel=1e-5)


def test_a_column_that_says_whose_frames_they_are_is_told_of(tmp_path: Path) -> None:
    lines = [f"{'p' if i < 50 else 'q'},{i % 2},{i}" for i in range(100)]
    path = written(tmp_path, "person,label,x\n" + "\n".join(lines))
    with pytest.raises(BadSamples, match="column `person` holds texts") as caught:
        opened(path)
    assert caught.value.hint == (
        "`group: person` where it says whose frames these are, else `columns: [x]`"
    )
