"""The page in a real browser: quiet, within its window, no text over another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.report.page import page
from tests.report import chromium
from tests.report.documents import document, earlier, many, row, times, two

pytestmark = pytest.mark.skipif(
    chromium.find() is None, reason="no Chromium: apt-get install --no-install-recommends chromium"
)
WINDOWS = [(360, 740), (1280, 900)]
LONG = "experiments/" + "a-very-long-name-" * 12 + "{}.onnx"
OUTSIDE = """(() => [...document.querySelectorAll("svg")].flatMap((svg) => {
  const box = svg.getBoundingClientRect();
  if (!box.width) return [];
  return [...svg.querySelectorAll("text")].filter((text) => {
    const b = text.getBoundingClientRect();
    return b.left < box.left - 1 || b.right > box.right + 1
      || b.top < box.top - 1 || b.bottom > box.bottom + 1;
  }).map((text) => svg.getAttribute("aria-labelledby") + ": " + text.textContent);
}))()"""
OVERLAPPING = """(() => [...document.querySelectorAll("svg")].flatMap((svg) => {
  if (!svg.getBoundingClientRect().width) return [];
  const boxes = [...svg.querySelectorAll("text")].map((t) => [t, t.getBoundingClientRect()]);
  const found = [];
  boxes.forEach(([s, a], i) => boxes.slice(i + 1).forEach(([t, b]) => {
    const x = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const y = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (x > 1 && y > 3) found.push(
      svg.getAttribute("aria-labelledby") + ": " + s.textContent + " / " + t.textContent);
  }));
  return found;
}))()"""


def huge() -> dict[str, Any]:
    """Figures of nine orders of magnitude."""
    rows = [row(f"{i}.onnx", 10.0 ** (i - 4), i=i) for i in range(9)]
    return document(rows)


DOCUMENTS = {
    "one": document([row("only.onnx", 4.41)], doubts=[]),
    "two": two(),
    "twelve": many(12),
    "long": document(
        [row(LONG.format(i), 4.0 + i / 50, i=i) for i in range(4)], doubts=["x" * 900]
    ),
    "huge": huge(),
    "hundreds": many(220),
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Browser]:
    with chromium.browser(tmp_path_factory.mktemp("chromium")) as found:
        yield found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), WINDOWS)
@pytest.mark.parametrize("name", DOCUMENTS)
def test_pages_are_sound(
    name: str, width: int, height: int, scheme: str, browser: chromium.Browser, tmp_path: Path
) -> None:
    found = DOCUMENTS[name]
    path = tmp_path / "page.html"
    path.write_text(page(found, times(found, 900), earlier(found, 14)), encoding="utf-8")
    browser.open(path, width, height, scheme)
    browser.screenshot(tmp_path / f"{name}-{width}-{scheme}.png")
    root = "document.documentElement"
    assert browser.complaints() == []
    assert browser.requests() == []
    assert browser.evaluate(f"{root}.scrollWidth <= {root}.clientWidth")
    assert browser.evaluate("document.querySelectorAll('svg').length") >= 8
    assert browser.evaluate(OUTSIDE) == []
    assert browser.evaluate(OVERLAPPING) == []
    paper = browser.evaluate(f"getComputedStyle({root}).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")


def column(browser: chromium.Browser, head: str) -> list[str]:
    """The visible cells of a column."""
    texts = browser.evaluate(
        f"""(() => {{
          const heads = [...document.querySelector("#rows thead").rows[0].cells];
          const at = heads.findIndex((head) => head.textContent.startsWith("{head}"));
          return [...document.querySelectorAll("#rows tbody tr")].map(
            (row) => row.cells[at].textContent);
        }})()"""
    )
    return list(texts)


@pytest.mark.parametrize("count", [30, 450])
def test_rows_are_sorted_and_filtered(
    count: int, browser: chromium.Browser, tmp_path: Path
) -> None:
    found = many(count)
    del found["rows"][5]["latency_ms"]["p50"]
    path = tmp_path / "page.html"
    path.write_text(page(found, {}, []), encoding="utf-8")
    browser.open(path, 1280, 900, "light")
    before = column(browser, "p50")
    click = (
        "[...document.querySelectorAll('#rows thead button')]"
        ".find((b) => b.textContent.startsWith('p50')).click()"
    )
    browser.evaluate(click)
    up = [float(text) for text in column(browser, "p50")[:-1]]
    assert up == sorted(float(text) for text in before if text != "-")
    assert column(browser, "p50")[-1] == "-"
    browser.evaluate(click)
    assert [float(text) for text in column(browser, "p50")[:-1]] == up[::-1]
    browser.evaluate(
        "(() => { const box = document.querySelector('.tools input'); box.value = 'FLOAT16 -2';"
        " box.dispatchEvent(new Event('input')); })()"
    )
    kept = column(browser, "artifact")
    assert kept
    assert len(kept) < count / 2
    assert all("float16" in text and "-2" in text for text in kept)
    assert browser.evaluate("document.querySelector('.tools output').textContent") == (
        f"{len(kept)} of {count}"
    )
    assert browser.complaints() == []


def test_paper_is_white_and_shows_each_plot_once(browser: chromium.Browser, tmp_path: Path) -> None:
    found = many(12)
    path = tmp_path / "page.html"
    path.write_text(page(found, times(found, 900), earlier(found, 14)), encoding="utf-8")
    browser.open(path, 720, 1000, "dark")
    browser("Emulation.setEmulatedMedia", media="print")
    browser.screenshot(tmp_path / "print.png")
    shown = "[...document.querySelectorAll('svg')].map((s) => s.getBoundingClientRect().width > 0)"
    visible = browser.evaluate(shown)
    assert visible == [True, False] * (len(visible) // 2)
    root = "document.documentElement"
    assert browser.evaluate(f"getComputedStyle({root}).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.evaluate(f"{root}.scrollWidth <= {root}.clientWidth")
    assert browser.evaluate("getComputedStyle(document.querySelector('.tools')).display") == "none"


def test_a_hostile_page_runs_nothing(browser: chromium.Browser, tmp_path: Path) -> None:
    evil = "</script></pre></svg><img src=https://example.org/x onerror=window.hit=1>"
    found = document([row(evil, 4.0), row("b" + evil, 2.0)], doubts=[evil], command=evil)
    path = tmp_path / "page.html"
    samples = {evil: np.array([1.0, 2.0])}
    path.write_text(page(found, samples, earlier(found, 2)), encoding="utf-8")
    browser.open(path, 1280, 900, "light")
    assert browser.evaluate("window.hit === undefined")
    assert browser.evaluate("document.querySelectorAll('img').length") == 0
    assert browser.requests() == []
    assert browser.complaints() == []


def test_the_checks_above_can_fail(browser: chromium.Browser, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(
        "<!doctype html><body><svg width=90 height=90 style='overflow:visible' "
        "aria-labelledby=x><text x=80 y=40>outside</text><text x=85 y=42>over</text></svg>"
        "<div style='width:3000px'>wide</div><img src='https://example.org/x.png'>"
        "<script>console.error('loud')</script>"
    )
    browser.open(path, 360, 740, "light")
    assert browser.evaluate(OUTSIDE) == ["x: outside", "x: over"]
    assert browser.evaluate(OVERLAPPING) == ["x: outside / over"]
    assert "https://example.org/x.png" in browser.requests()
    assert any("loud" in complaint for complaint in browser.complaints())
    assert not browser.evaluate(
        "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    )
