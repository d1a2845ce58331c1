"""The page: whole, escaped, quiet about what is missing."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedl.report.page import page
from edgedl.report.palette import DARK, LIGHT, of_work
from edgedl.report.spread import thinned
from tests.report.documents import document, earlier, many, row, times, two

VOID = {"meta", "link", "input", "br", "wbr", "col"}
EVIL = "</script></pre><img src=x onerror=alert(1)>\"'&.onnx"


class Reader(HTMLParser):
    """Notes unbalanced tags, addresses, ids and texts."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for key, value in attrs:
            assert not key.startswith("on"), (tag, key)
            if key in ("src", "href", "action", "srcset", "xlink:href", "data"):
                self.addresses.append(value or "")
            if key == "id":
                self.ids.append(value or "")
            if key in ("title", "aria-label"):
                self.texts.append(value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script", "pre"):
            self.texts.append(data)


def read(text: str) -> Reader:
    """The page, parsed; it is well-formed, asks for nothing, and its pictures are XML."""
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    assert len(reader.ids) == len(set(reader.ids))
    assert all(a.startswith("#") or a == "data:," for a in reader.addresses)
    assert {a[1:] for a in reader.addresses if a.startswith("#")} <= set(reader.ids)
    assert "@import" not in text
    assert "url(" not in text
    for picture in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        root = ET.fromstring(picture)
        assert root[0].tag == "title"
        assert root[1].tag == "desc"
        assert root[1].text
        assert not re.search(
            r'="[^"]*\b(nan|inf|None)\b', re.sub(r"<(title|desc).*?>", "", picture)
        )
    for said in reader.texts:
        assert not re.search(r"\b(None|nan|NaN|null|inf|Infinity)\b", said), said
    return reader


def sections(text: str) -> list[str]:
    return re.findall(r'<section id="([^"]+)"', text)


def test_everything_in_its_order() -> None:
    found = two()
    text = page(found, times(found), earlier(found, 3))
    read(text)
    assert sections(text) == [
        "rows", "pairs", "latency", "pareto", "operators", "load", "stages", "throughput",
        "history", "cold", "memory", "machine", "doubts", "document",
    ]  # fmt: skip
    for key in sections(text)[1:6]:
        assert text.count(f'id="{key}-wide-title"') in (0, 1)
    assert '<h1>models/resnet50.edl is 2.50x <span class="range">[2.40, 2.60]</span> faster' in text


def test_what_is_missing_is_left_out() -> None:
    bare = {"rows": [{"artifact": "a.onnx", "latency_ms": {"p50": 4.0}}]}
    text = page(bare, {}, [])
    read(text)
    assert sections(text) == ["rows", "document"]
    assert "a.onnx answers in 4.00 ms" in text


@pytest.mark.parametrize("empty", [{}, {"rows": []}, {"rows": None, "pairs": None, "doubts": None}])
def test_an_empty_document_is_a_page(empty: dict[str, Any]) -> None:
    text = page(empty, {}, [{}])
    read(text)
    assert "Nothing was timed" in text


def test_user_text_is_escaped_everywhere() -> None:
    found = document([row(EVIL, 4.0), row("b" + EVIL, 2.0)], command=EVIL, doubts=[EVIL])
    found["machine"][EVIL] = {"deep": {EVIL: EVIL}}
    text = page(found, times(found, 30), earlier(found, 2))
    reader = read(text)
    assert "img" not in reader.tags
    assert reader.tags.count("script") == 1
    assert text.count("</script>") == 1
    assert text.count("</pre>") == 1


def test_invalid_rows_and_doubts_stand_beside_the_headline() -> None:
    found = many(5)
    head = page(found, {}, []).split("</header>")[0]
    assert "1 row is not valid" in head
    assert found["rows"][2]["artifact"] in head
    assert "the machine is busy" in head


def test_why_a_row_is_not_valid_stands_beside_the_headline() -> None:
    found = many(5)
    found["rows"][2]["problem"] = "the wall clock stepped by -3.0 s: <it> was set"
    head = page(found, {}, []).split("</header>")[0]
    assert "<p>the wall clock stepped by -3.0 s: &lt;it&gt; was set</p>" in head


def test_how_the_energy_was_metered_stands_below_the_table() -> None:
    found = document([row("a.onnx", 4.0)])
    assert "on package-0, package-0/core." in page(found, {}, [])
    found["rows"][0]["energy"]["windows_mj"] = [1.0, 2.0, 3.0]
    assert " s, the median of 3 such windows," in page(found, {}, [])


def test_an_invalid_row_never_wins() -> None:
    found = document([row("a.onnx", 4.0), row("b.edl", 2.0), row("c.edl", 1.0)])
    found["rows"][2]["valid"] = False
    assert "<h1>b.edl is 2.00x" in page(found, {}, [])


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)  # fmt: skip
ROW = st.fixed_dictionaries(
    {},
    optional={key: JSON | st.just(value) for key, value in row("models/x.onnx", 3.0).items()},
)
DOCUMENT = st.fixed_dictionaries(
    {"rows": st.lists(ROW, max_size=3)},
    optional={key: JSON | st.just(value) for key, value in two().items() if key != "rows"},
)


@settings(max_examples=60, deadline=None)
@given(DOCUMENT)
def test_no_document_breaks_the_page(found: dict[str, Any]) -> None:
    text = page(found, {"models/x.onnx": np.array([1.0, np.nan, 3.0, np.inf])}, [found])
    assert text.endswith("</html>\n")
    for picture in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ET.fromstring(picture)


def test_samples_of_every_kind_are_drawn() -> None:
    found = two()
    name = found["rows"][0]["artifact"]
    for samples in ([5.0], [5.0, 5.0, 5.0], [0.0, 1.0], [1e-9, 1e6], [np.nan], []):
        read(page(found, {name: np.array(samples)}, []))


def test_thinning_keeps_the_extremes() -> None:
    ascending = np.sort(np.random.default_rng(0).lognormal(0, 1, 100_000))
    points = thinned(ascending)
    assert len(points) <= 240
    np.testing.assert_array_equal(points[-40:], ascending[-40:])
    np.testing.assert_array_equal(points[:8], ascending[:8])
    assert np.all(np.diff(points) >= 0)
    np.testing.assert_array_equal(thinned(ascending[:100]), ascending[:100])


def test_how_many_points_are_drawn_is_said() -> None:
    found = two()
    assert "480 of 10,000 samples are drawn" in page(found, times(found, 5000), [])
    assert "All 40 samples are drawn" in page(found, times(found, 20), [])


def test_many_rows_come_in_chunks_and_plots_say_what_they_leave_out() -> None:
    found = many(1200)
    text = page(found, times(found, 12), [])
    assert text.count('<div class="chunk">') == 6
    assert text.count('<th scope="row"') == 1200 + 200 + 200
    assert "12 of 1,200 rows: the first and the 11 fastest others." in text
    assert "16 of 1,199 pairs" in text
    assert "the first 1,000 of 1,200 rows" in text


def test_very_long_names_are_cut_in_the_table_and_whole_beside_it() -> None:
    name = "begin" + "x" * 300 + "end.onnx"
    text = page(document([row(name, 4.0)]), {}, [])
    cell = text[text.index('<th scope="row"') :].split("</th>")[0]
    assert f'title="{name}"' in cell
    shown = cell.split("</span>")[1]
    assert len(shown) == 72
    assert shown.startswith("begin")
    assert shown.endswith("end.onnx")


def test_the_page_is_the_same_every_time() -> None:
    found = two()
    assert page(found, times(found), []) == page(found, times(found), [])


@pytest.mark.parametrize(
    ("kind", "precision", "expected"),
    [
        ("Cast", "int8", "conversion"),
        ("Conv", "int8", "int8"),
        ("Conv", "uint8", "int8"),
        ("MatMul", "int4", "int4"),
        ("MatMul", "bfloat16", "16 bit"),
        ("Add", "float32", "float32"),
        ("Add", "", "other"),
    ],
)
def test_work_is_told_apart(kind: str, precision: str, expected: str) -> None:
    assert of_work(kind, precision)[1] == expected


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_contrast_is_legible(palette: dict[str, str]) -> None:
    def contrast(a: str, b: str) -> float:
        low, high = sorted((luminance(palette[a]), luminance(palette[b])))
        return (high + 0.05) / (low + 0.05)

    assert contrast("ink", "paper") >= 7
    assert contrast("muted", "paper") >= 4.5
    assert contrast("warn", "warn-paper") >= 4.5
    for i in range(8):
        assert contrast(f"s{i}", "paper") >= 3
        assert contrast("on", f"s{i}") >= 3
