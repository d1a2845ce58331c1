"""What `diagnose` found: three lines that say what is wrong and what to type, then the tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from edgedl.core.stats import Agreement
from edgedl.core.units import plural
from edgedl.report.table import table

Status = Literal["healthy", "faults", "spread", "too few samples"]
MOST_TENSORS = 12
MOST_OPERATORS = 8


@dataclass(frozen=True)
class Cause:
    """One thing that is wrong.

    Attributes:
        name: its name in the table of causes.
        sentence: what it is, in words.
        share: of the loss at the outputs, with a 95 % interval over samples; None where it is no
            part of what the quantizers lose.
        evidence: figures and names.
        command: what mends it.
    """

    name: str
    sentence: str
    share: tuple[float, float, float] | None
    evidence: tuple[str, ...]
    command: str


@dataclass(frozen=True)
class TensorRow:
    """One tensor along the graph: off by how much, of that added here, and how its codes fare."""

    tensor: str
    operator: str
    matched: str
    sqnr_db: float
    cosine: float
    added: float
    inherited: float
    low: float
    high: float
    code_low: float | None
    code_high: float | None
    saturated: float | None
    dead: float | None


@dataclass(frozen=True)
class OperatorRow:
    """One operator: the loss that it makes alone, and what of it comes from its weights."""

    operator: str
    kind: str
    alone: float
    share: float


@dataclass(frozen=True)
class Diagnosis:
    """The result of `diagnose`.

    Attributes:
        loss: the share of noise in the answers' power, with a 95 % interval over samples.
        accuracy: metric, baseline, result, and the drop with its interval; None without labels.
        faithful_db: how near the compressed graph with all quantizers off is to the float model.
        warnings: what does no harm here, and may elsewhere.
    """

    model: str
    compressed: str
    engine: str
    status: Status
    verdict: str
    causes: tuple[Cause, ...]
    warnings: tuple[Cause, ...]
    loss: tuple[float, float, float]
    agreement: Agreement
    accuracy: Mapping[str, Any] | None
    quantizers: Mapping[str, int]
    operators: tuple[OperatorRow, ...]
    tensors: tuple[TensorRow, ...]
    faithful_db: float | None
    samples: Mapping[str, int]
    doubts: tuple[str, ...]
    seconds: float
    peak_rss_bytes: int | None

    def to_json(self) -> dict[str, Any]:
        """All of it, plain."""
        document = asdict(self)
        document["loss"] = dict(zip(("value", "low", "high"), self.loss, strict=True))
        document["agreement"] = self.agreement.to_json()
        document["accuracy"] = None if self.accuracy is None else dict(self.accuracy)
        for key in ("causes", "warnings"):
            document[key] = [_cause_json(cause) for cause in getattr(self, key)]
        return document

    def text(self) -> str:
        """The page: the verdict, the first cause, what to type, and then why."""
        parts = [self._title(), "\n".join(self._head())]
        if self.causes:
            parts.append(self._causes("causes", self.causes))
        if self.warnings:
            parts.append(self._causes("elsewhere", self.warnings))
        if self.operators:
            parts.append(self._operators())
        if self.tensors:
            parts.append(self._tensors())
        if self.doubts:
            parts.append("doubts\n" + "\n".join(f"  {doubt}" for doubt in self.doubts))
        return "\n\n".join(parts)

    def _title(self) -> str:
        kinds = ", ".join(
            f"{count} {kind if count == 1 else PLURALS[kind]}"
            for kind, count in self.quantizers.items()
            if count
        )
        what = f"quantized: {kinds}" if kinds else "no quantizer found"
        return (
            f"{self.model} against {self.compressed}   {self.engine},"
            f" {plural(self.samples['answers'], 'sample')}; {what}"
        )

    def _head(self) -> list[str]:
        lines = [self.verdict]
        if self.causes:
            first = self.causes[0]
            share = "" if first.share is None else f"{share_text(first.share)} of it: "
            lines.append(f"{share}{first.sentence}")
            if first.command:
                lines.append(f"type: {first.command}")
        return lines

    def _causes(self, heading: str, causes: tuple[Cause, ...]) -> str:
        lines = [heading]
        for i, cause in enumerate(causes, 1):
            share = "" if cause.share is None else f", {share_text(cause.share)} of the loss"
            lines.append(f"  {i}. {cause.name.replace('_', ' ')}{share}: {cause.sentence}")
            lines += [f"       {line}" for line in cause.evidence]
            if cause.command and (i > 1 or heading != "causes"):
                lines.append(f"       type: {cause.command}")
        return "\n".join(lines)

    def _operators(self) -> str:
        rows = [["operator", "", "noise alone", "share"]]
        rows += [
            [row.operator, row.kind, percent(row.alone), f"{100 * row.share:.0f} %"]
            for row in self.operators[:MOST_OPERATORS]
        ]
        more = len(self.operators) - MOST_OPERATORS
        if more > 0:
            rest = sum(row.share for row in self.operators[MOST_OPERATORS:])
            rows.append([f"{more} more", "", "", f"{100 * rest:.0f} %"])
        return table(rows, right=(2, 3))

    def _tensors(self) -> str:
        head = ["along the graph", "SQNR", "cosine", "added here", "inherited", "range used"]
        rows = [[*head, "range of codes", "clipped", "dead codes"]]
        shown = shown_tensors(self.tensors)
        rows += [[short(row.tensor), *tensor_cells(row)] for row in shown]
        text = table(rows, right=(1, 2, 3, 4, 7, 8))
        if len(shown) < len(self.tensors):
            text += f"\n{len(shown)} of {len(self.tensors)} tensors: where most is added, in order"
        return text


def tensor_cells(row: TensorRow) -> list[str]:
    """A tensor's figures in words: SQNR, cosine, error added and inherited, ranges, codes."""
    return [
        f"{row.sqnr_db:.1f} dB",
        f"{row.cosine:.4f}",
        percent(row.added),
        percent(row.inherited),
        f"{row.low:.3g} to {row.high:.3g}",
        "" if row.code_low is None else f"{row.code_low:.3g} to {row.code_high:.3g}",
        "" if row.saturated is None else percent(row.saturated),
        "" if row.dead is None else f"{100 * row.dead:.0f} %",
    ]


PLURALS = {"activation": "activations", "weight": "weights", "bias": "biases"}


def _cause_json(cause: Cause) -> dict[str, Any]:
    share = cause.share
    return {
        "name": cause.name,
        "sentence": cause.sentence,
        "share": None if share is None else dict(zip(("value", "low", "high"), share, strict=True)),
        "evidence": list(cause.evidence),
        "command": cause.command,
    }


def shown_tensors(rows: tuple[TensorRow, ...], most: int = MOST_TENSORS) -> list[TensorRow]:
    """The tensors at which most is added, and the last, in graph order."""
    if len(rows) <= most:
        return list(rows)
    kept = {*sorted(range(len(rows)), key=lambda i: -rows[i].added)[: most - 1], len(rows) - 1}
    return [rows[i] for i in sorted(kept)]


def percent(share: float) -> str:
    """A share as a percentage with two digits that say something."""
    if share == 0:
        return "0 %"
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"


def share_text(share: tuple[float, float, float]) -> str:
    """A share with its interval."""
    value, low, high = (100 * part for part in share)
    return f"{value:.0f} % [{low:.0f}, {high:.0f}]"


def short(name: str, most: int = 44) -> str:
    """A name, or its end."""
    return name if len(name) <= most else "..." + name[3 - most :]
