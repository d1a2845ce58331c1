"""Put the tables under `benchmarks/results/` into the README, each between its two marks.

python benchmarks/readme.py
"""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"


def fill(text: str) -> str:
    """The README with every marked table as it stands under `results/`."""
    for path in sorted((HERE / "results").glob("*.md")):
        start, end = f"<!-- {path.name} -->\n", f"<!-- end of {path.name} -->"
        if start in text and end in text:
            before, rest = text.split(start)
            _, after = rest.split(end)
            text = f"{before}{start}{path.read_text().rstrip()}\n{end}{after}"
    return text


if __name__ == "__main__":
    README.write_text(fill(README.read_text()))
