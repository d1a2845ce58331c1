"""Tables: numbers, categories, gaps, labels, groups, and what is refused."""

from __future__ import annotations

import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from edgedl.core.errors import BadSamples, BadValue, Missing
from edgedl.runtime.process.table import Table
from edgedl.train.data import Data, load
from edgedl.train.data.dataset import Dataset
from edgedl.train.data.table_files import read_table
from edgedl.train.networks import build
from edgedl.train.shapes import TensorShape


def written(folder: Path, text: str, name: str = "a.csv") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def rows(count: int = 40) -> str:
    lines = [
        f"{i},{['red', 'blue'][i % 2]},{i % 4},{'yes' if i % 2 else 'no'}" for i in range(count)
    ]
    return "\n".join(["age,color,person,label", *lines]) + "\n"


def opened(**settings: Any) -> Dataset:
    return load(Data(**settings), seed=0, cache=Path("unused"))


def test_a_table_by_hand(tmp_path: Path) -> None:
    found = opened(table=written(tmp_path, rows()), categories=("color",), columns=("age",))
    assert (len(found.train), len(found.validation), len(found.test)) == (28, 4, 8)
    assert found.task == "classification"
    assert found.train.classes == ("no", "yes")
    assert found.outputs == 2
    assert found.inputs["row"].shape == (3,)
    ages = np.array(found.train.rows, float)
    row = int(found.test.rows[0])
    wanted = [(row - ages.mean()) / ages.std(), row % 2, 1 - row % 2]
    assert found.test.feed(0)["row"][0] == pytest.approx(wanted, abs=1e-6)
    assert found.test.chosen_labels is not None
    assert found.test.chosen_labels.tolist() == [int(r) % 2 for r in found.test.rows]


def test_the_device_does_what_training_did(tmp_path: Path) -> None:
    found = opened(table=written(tmp_path, rows()), categories=("color",), group="person")
    assert found.processing is not None
    raw = {"age": "7", "color": "blue"}
    place = next(p for p in (found.train, found.validation, found.test) if 7 in p.rows)
    fed = place.feed(list(place.rows).index(7))["row"]
    assert np.array_equal(found.processing.before(raw)["row"], fed)
    assert isinstance(found.processing.preprocess, Table)
    assert found.processing.preprocess.columns[1].categories == ("blue", "red")


def test_groups_stay_together(tmp_path: Path) -> None:
    found = opened(table=written(tmp_path, rows()), categories=("color",), group="person")
    sides = [
        {int(r) % 4 for r in part.rows} for part in (found.train, found.validation, found.test)
    ]
    assert sum(map(len, sides)) == 4
    assert not found.doubts


def test_an_official_test_table(tmp_path: Path) -> None:
    test = written(tmp_path, "label,age,person,color\nno,1,9,red\nyes,2,9,blue\n", "test.csv")
    found = opened(table=written(tmp_path, rows()), test=test, categories=("color",))
    assert found.test.rows.tolist() == [40, 41]
    assert (len(found.train), len(found.validation)) == (36, 4)
    test = written(tmp_path, "label,age,colour\nno,1,red\nyes,2,red\n", "test.csv")
    both = {"table": written(tmp_path, rows()), "test": test}
    assert opened(**both, columns=("age",)).test.rows.tolist() == [40, 41]
    with pytest.raises(BadSamples, match=r"column `color` is not in `.*test\.csv`") as caught:
        opened(**both, columns=("age",), categories=("color",))
    assert "colour" in (caught.value.hint or "")


def test_values_to_regress(tmp_path: Path) -> None:
    lines = "\n".join(f"{i},{i * 2.5}" for i in range(30))
    found = opened(table=written(tmp_path, f"x,y\n{lines}\n"), label="y")
    assert found.task == "regression"
    assert found.outputs == 1
    labels = found.train.chosen_labels
    assert labels is not None
    assert labels.shape == (21, 1)
    assert labels.mean() == pytest.approx(0, abs=1e-6)
    assert labels.std() == pytest.approx(1, abs=1e-6)
    values = np.array([2.5 * r for r in found.train.rows])
    assert found.standard is not None
    assert found.standard.mean == pytest.approx(values.mean())
    assert found.standard.deviation == pytest.approx(values.std())
    plain = opened(table=written(tmp_path, f"x,y\n{lines}\n"), label="y", standardize=False)
    assert plain.train.chosen_labels is not None
    assert plain.train.chosen_labels[:, 0].tolist() == values.tolist()


def test_anomalies_are_for_the_test(tmp_path: Path) -> None:
    lines = "\n".join(f"{i},{'bad' if i % 10 == 0 else 'good'}" for i in range(60))
    found = opened(table=written(tmp_path, f"x,label\n{lines}\n"), task="reconstruction",
                   normal="good")  # fmt: skip
    assert found.outputs == 0
    for part in (found.train, found.validation):
        assert part.chosen_labels is not None
        assert not part.chosen_labels.any()
    assert found.test.chosen_labels is not None
    assert 0 < found.test.chosen_labels.sum() < len(found.test)
    with pytest.raises(BadSamples, match="no class `god`") as caught:
        opened(table=written(tmp_path, f"x,label\n{lines}\n"), task="reconstruction", normal="god")
    assert "did you mean `good`" in (caught.value.hint or "")


GAPS = rows().replace("\n3,blue", "\n,blue").replace("\n6,red", "\n6,")


def test_gaps_are_refused_dropped_or_filled(tmp_path: Path) -> None:
    table = written(tmp_path, GAPS)
    lacks = r"row 5: no value in column `age`; of 40 rows values lack: 1 in `age`, 1 in `color`"
    with pytest.raises(BadSamples, match=lacks) as caught:
        opened(table=table, categories=("color",))
    assert "missing: drop" in (caught.value.hint or "")
    with pytest.raises(BadSamples, match="row 8: no value in column `color`"):
        opened(table=table, categories=("color",), columns=("color",))
    dropped = opened(table=table, categories=("color",), missing="drop")
    assert sum(map(len, (dropped.train, dropped.validation, dropped.test))) == 38
    assert "2 of 40 rows lack a value and were dropped" in dropped.doubts
    filled = opened(table=table, categories=("color",), missing="mean", columns=("age",))
    parts = (filled.train, filled.validation, filled.test)
    fed = {int(r): p.feed(i)["row"][0] for p in parts for i, r in enumerate(p.rows)}
    assert fed[3].tolist() == [0, 1, 0]
    assert fed[6][1:].tolist() == [0, 0]
    assert filled.doubts == (
        "of 40 rows values that lack were filled: 1 in `age` by the mean, 1 in `color` by zeros",
    )


@pytest.mark.parametrize(
    ("text", "settings", "says", "hints"),
    [
        ("", {}, "no line of names", "add one"),
        ("a,label\n", {}, "no rows", ""),
        ("a,a\n1,2\n", {}, "two columns are called `a`", "apart"),
        ("a,label\n1,x\n1\n", {}, "line 3 has 1 values for 2 columns", "mend"),
        ("a,label\n1,x\nold,y\n", {}, "row 3 has `old` in the number column `a`", "categories"),
        ("a,label\n1,x\ninf,y\n", {}, "row 3 has `inf`", "not finite"),
        ("a,label\n2024-02-27,x\n", {}, "row 2 has `2024-02-27`", "without `a`"),
        ("a;label\n1,5;x\n1.234,5;y\n", {}, "row 2 has `1,5`", "point before their decimals"),
        (rows(), {"label": "lable"}, "no column `lable`", "did you mean `label`"),
        (rows(), {"columns": ("agee",)}, "no column `agee`", "did you mean `age`"),
        (rows(), {"group": "persons"}, "no column `persons`", "did you mean `person`"),
        (rows(), {"columns": ("label",)}, "is the label", "leave it out"),
        (rows().replace("label", "x"), {}, "which column has the labels", "age, color, person, x"),
        (rows().replace(",no", ",yes"), {"columns": ("age",)}, "one class, `yes`", "two or more"),
        (rows(), {"columns": ("age",), "classes": ("no", "yse")}, "row 3 has the label `yes`",
         "did you mean `yse`"),
        ("a,label\n1,\n2,x\n", {"columns": ("a",)}, "row 2 has no `label`", "drop"),
        ("label\nx\ny\n", {}, "no column beside the label", "add"),
    ],
)  # fmt: skip
def test_bad_tables(
    text: str, settings: dict[str, Any], says: str, hints: str, tmp_path: Path
) -> None:
    with pytest.raises(BadSamples, match=says) as caught:
        opened(table=written(tmp_path, text), **settings)
    assert hints in (caught.value.hint or "")
    assert caught.value.where == str(tmp_path / "a.csv")


def test_other_separators(tmp_path: Path) -> None:
    for name, separator in (("a.tsv", "\t"), ("b.csv", ";"), ("c.csv", "\t"), ("d.csv", "|")):
        table = written(tmp_path, rows().replace(",", separator), name)
        assert opened(table=table, columns=("age",)).outputs == 2


def test_a_column_that_numbers_the_rows_is_told(tmp_path: Path) -> None:
    lines = "".join(f"{i},{i * 7 % 31},{'ab'[i % 2]}\n" for i in range(30))
    table = written(tmp_path, ",x,label\n" + lines)
    [said] = opened(table=table).doubts
    assert said.startswith("column `` numbers the rows")
    assert opened(table=table, columns=("x",)).doubts == ()


def test_what_spreadsheets_call_unicode(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(rows().replace("yes", "größer"), encoding="utf-16")
    assert opened(table=str(tmp_path / "a.csv"), columns=("age",)).train.classes == ("größer", "no")


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    with pytest.raises(BadSamples, match="no such file"):
        opened(table=str(tmp_path / "absent.csv"))
    with pytest.raises(BadSamples, match="no table that is read"):
        opened(table=written(tmp_path, "", "a.xls"))
    (tmp_path / "b.csv").write_bytes(b"a,b\n\xff\xfe,1\n")
    with pytest.raises(BadSamples, match="cannot be read"):
        opened(table=str(tmp_path / "b.csv"))


def test_parquet_asks_for_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises(Missing, match="`pyarrow`") as caught:
        opened(table=str(path))
    assert "edgedl[tables]" in (caught.value.hint or "")


def parquet(path: Path, **columns: Any) -> str:
    names = {"x": list(range(20)), "label": ["a", "b"] * 10, **columns}
    pq.write_table(pa.table(names), path)
    return str(path)


def test_parquet_has_the_values_that_its_types_say(tmp_path: Path) -> None:
    day = 86400 * 10**9
    table = parquet(
        tmp_path / "a.parquet",
        at=pa.array([day + 17] * 20, pa.timestamp("ns", "Europe/Berlin")),
        took=pa.array([1500] * 20, pa.duration("ms")),
        time=pa.array([1] * 20, pa.time64("ns")),
        color=pa.array([b"red", b"blue"] * 10),
        price=[Decimal("1.25"), None] * 10,
        size=pa.array([1, 2] * 10).dictionary_encode(),
        shape=[[1, 2]] * 20,
        noise=[b"\xff"] * 20,
    )
    cells = {name: column[0] for name, column in read_table(table).cells.items()}
    assert cells["at"].startswith("1970-01-02 00:00:00.000000017")
    assert (cells["took"], cells["color"], cells["price"]) == (1.5, "red", Decimal("1.25"))
    assert (cells["time"], cells["size"]) == ("00:00:00.000000001", 1)
    settings: dict[str, Any] = {"missing": "mean", "categories": ("color",)}
    found = opened(table=table, columns=("x", "price", "size", "took"), **settings)
    assert found.inputs["row"].shape == (6,)
    with pytest.raises(BadSamples, match=r"column `shape` holds list<.*>, and not one value a row"):
        opened(table=table, categories=("color",), columns=("x", "shape"))
    with pytest.raises(BadSamples, match="column `noise` holds binary"):
        opened(table=table, label="noise")
    with pytest.raises(BadSamples, match="row 1 has `1970-01-02") as caught:
        opened(table=table, columns=("x", "at"))
    assert "a date is no number" in (caught.value.hint or "")


def test_one_parquet_trains_and_another_tests(tmp_path: Path) -> None:
    table, test = parquet(tmp_path / "a.parquet"), parquet(tmp_path / "b.parquet", z=[[1]] * 20)
    found = opened(table=table, test=test)
    assert found.test.rows.tolist() == list(range(20, 40))
    (tmp_path / "bad.parquet").write_bytes(Path(table).read_bytes()[:300])
    with pytest.raises(BadSamples, match="cannot be read"):
        opened(table=str(tmp_path / "bad.parquet"))


def test_a_limit_draws_of_every_part(tmp_path: Path) -> None:
    found = opened(table=written(tmp_path, rows(200)), columns=("age",), limit=20)
    assert (len(found.train), len(found.validation), len(found.test)) == (14, 2, 4)


def test_a_category_that_training_does_not_know_is_told(tmp_path: Path) -> None:
    text = rows() + "7,green,1,yes\n"
    settings = {"table": written(tmp_path, text), "categories": ("color",)}
    settings |= {"test": written(tmp_path, "age,color,person,label\n3,pink,1,no\n", "b.csv")}
    found = opened(**settings)
    assert any("`pink`: taken for none of the known" in doubt for doubt in found.doubts)
    assert found.processing is not None
    row = {"age": 3, "color": "grey", "person": 1}
    with pytest.warns(UserWarning, match="column `color` is `grey`, none that training knew"):
        made = found.processing.before(row)["row"]
    known = found.processing.before({**row, "color": "red"})["row"]
    assert made.sum() == known.sum() - 1
    plain = settings | {"test": None, "table": written(tmp_path, rows(), "c.csv")}
    strict = opened(**plain, unknown="error").processing
    assert strict is not None
    with pytest.raises(BadSamples, match="column `color` is `grey`"):
        strict.before(row)


def test_decimal_commas_and_classes_of_two_spellings_are_told(tmp_path: Path) -> None:
    lines = [f"{i},5;{i};{('yes', 'Yes ', 'no')[i % 3]}" for i in range(40)]
    found = opened(table=written(tmp_path, "a;b;label\n" + "\n".join(lines)), validation=0.2)
    assert found.doubts[0] == "`0,5` in column `a` is taken for a decimal comma"
    assert found.doubts[1].startswith("classes `Yes`, `yes` differ in spaces or capitals alone")
    row = found.test.rows[0]
    before = found.processing
    assert before is not None
    made = before.preprocess.apply({"a": row + 0.5, "b": row})
    np.testing.assert_array_equal(found.test.feed(0)["row"], made)


def test_a_bad_row_of_a_second_table_is_called_by_its_file_and_line(tmp_path: Path) -> None:
    train = written(tmp_path, "a,label\n" + "\n".join(f"{'uv'[i % 2]},{i % 2}" for i in range(20)))
    test = written(tmp_path, "a,label\nu,0\nw,1\n", "test.csv")
    with pytest.raises(BadSamples, match="column `a` is `w`") as caught:
        opened(table=train, test=test, categories=("a",), unknown="error")
    assert caught.value.where == f"{test}: row 3"


def ratings(folder: Path, user: str = "{}", last: str = "") -> str:
    lines = [f"{user.format(i % 7)},{i % 11 + 1},{i % 5 + 1},{i}" for i in range(60)]
    return written(folder, "\n".join(["who,film,stars,at", *lines, last]).rstrip() + "\n")


def test_ids_are_inputs_of_their_own(tmp_path: Path) -> None:
    found = opened(table=ratings(tmp_path), ids=("who", "film"), label="stars")
    assert found.task == "regression"
    assert found.outputs == 1
    assert found.inputs == {
        "who": TensorShape((1,), "int64", 7), "film": TensorShape((1,), "int64", 12)
    }  # fmt: skip
    row = int(found.train.rows[0])
    fed = {name: int(one[0, 0]) for name, one in found.train.feed(0).items()}
    assert fed == {"who": row % 7, "film": row % 11 + 1}
    network = build("two_tower", found.inputs, 1, {})
    assert network(*map(torch.from_numpy, found.train.feed(0).values())).shape == (1, 1)
    assert found.standard is not None


def test_no_and_yes_of_ids_stay_what_they_are(tmp_path: Path) -> None:
    lines = "".join(f"{i % 7},{i * 2 % 13},{i % 2}\n" for i in range(60))
    found = opened(table=written(tmp_path, f"a,b,label\n{lines}"), ids=("a", "b"))
    assert found.standard is None
    assert found.train.chosen_labels is not None
    assert {*found.train.chosen_labels[:, 0]} == {0.0, 1.0}


def test_bad_ids(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"ids": ("who", "film"), "label": "stars"}
    with pytest.raises(BadSamples, match="row 2 has `u0` in the number column `who`") as caught:
        opened(table=ratings(tmp_path, "u{}"), **settings)
    assert "return_inverse" in (caught.value.hint or "")
    with pytest.raises(BadSamples, match="row 62: `-1` in column `film` is no id"):
        opened(table=ratings(tmp_path, last="3,-1,3,0"), **settings)
    sparse = opened(table=ratings(tmp_path, last="3,90000,3,0"), **settings)
    assert sparse.doubts[0].startswith("`film` has 12 different ids, up to 90000")
    with pytest.raises(BadValue, match="`ids` go without `columns`"):
        opened(table=ratings(tmp_path), columns=("at",), **settings)
    with pytest.raises(BadValue, match="`ids` go with `table`"):
        opened(arrays="a.npz", **settings)
