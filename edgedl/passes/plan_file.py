"""A plan as a YAML file that is printed, diffed and edited by hand, and read back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from edgedl.core.errors import BadValue, first_line, nearest
from edgedl.core.fields import from_plain
from edgedl.core.model import Model
from edgedl.core.program import Constants
from edgedl.core.target import PLANNED_ENGINES, SCHEMES
from edgedl.passes.graph import read
from edgedl.passes.layout import Layout, layout
from edgedl.passes.plan import Cost, Plan, Quantizer, State
from edgedl.passes.ranges import METHODS, Method
from edgedl.passes.recurrent import int8_recurrent
from edgedl.passes.repairs import Repair
from edgedl.passes.scales import SMALLEST_SCALE

BY_HAND = "the plan says so"
LARGEST_SCALE = float(np.finfo(np.float32).max)
STATES: tuple[State, ...] = ("float", "int8")
LIKE = f"like `{json.dumps(Quantizer('uint8', 0.02, 128).to_json())}`"
NEEDED = ("engine", "settings", "ranges", "operators", "scales")
LISTS = ("shifted", "narrow", "exact", "tables")
PARTS = (
    *NEEDED, "corrected", "repairs", "repaired_with", "tuned", "tuned_from", "bits", *LISTS
)  # fmt: skip
LEAST_BITS, MOST_BITS = 2, 8
MOST_WIDTH = 80
MOST_PLAIN_KEY = 1000  # YAML 1.2 (7.4) reads no further for the colon behind a key
HEAD = """\
# Which operators compute in int8, and the scales of their tensors. Change `int8` to `float` or
# back, or a scale, then: edgedl compress MODEL --plan THIS_FILE --samples SAMPLES -o OUT.edl
# A tensor without a scale is calibrated with the samples.
"""


@dataclass(frozen=True)
class PlanFile:
    """What a plan's file says.

    Attributes:
        engine: the engine that the plan is for.
        settings: how the engine opens the model.
        ranges: how the range of a tensor is found that has no scale.
        operators: the precision of every operator that has a choice, by name.
        scales: quantizers by tensor.
        corrected: whether biases are corrected, with means from the samples.
        shifted: nodes whose weights are written shifted by one.
        narrow: nodes whose weights have 7 bits.
        exact: nodes in float whose weights are stored as they were.
        tables: nodes that look rows up in a table of codes; as the rules say where None.
        repairs: what is done to the float model first.
        repaired_with: the digest of the samples that repairs were made with.
        tuned: the file beside the plan's that holds constants which training moved; empty where it
            moved none.
        tuned_from: the digest of the weights that the model had before.
        constants: what is in that file.
        bits: nodes whose weights have fewer bits than 8, and how many.
    """

    engine: str
    settings: Mapping[str, Any]
    ranges: Method
    operators: Mapping[str, State]
    scales: Mapping[str, Quantizer]
    corrected: bool = False
    shifted: tuple[str, ...] = ()
    narrow: tuple[str, ...] = ()
    exact: tuple[str, ...] = ()
    tables: tuple[str, ...] | None = None
    repairs: tuple[Repair, ...] = ()
    repaired_with: str = ""
    tuned: str = ""
    tuned_from: str = ""
    constants: Constants | None = None
    bits: Mapping[str, int] = field(default_factory=dict)

    def with_constants(self, folder: Path) -> PlanFile:
        """The plan with the constants in the file that it names, within this folder.

        Raises:
            BadValue: the file is missing, damaged, or not in the folder.
        """
        if not self.tuned:
            return self
        hint = "copy it there; without `tuned`, weights are those of the model"
        if Path(self.tuned).name != self.tuned:
            raise BadValue(f"`{self.tuned}` is not the name of a file", keys=("tuned",), hint=hint)
        try:
            return replace(self, constants=Constants.read(folder / self.tuned))
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
            reason = getattr(error, "strerror", None) or first_line(error)
            raise BadValue(
                f"`{self.tuned}` beside the plan cannot be read ({reason})",
                keys=("tuned",),
                hint=hint,
            ) from error


def to_yaml(
    plan: Plan,
    engine: str,
    settings: Mapping[str, Any],
    ranges: Method,
    *,
    corrected: bool = False,
    exact: Sequence[str] = (),
    costs: Sequence[Cost] = (),
    repairs: Sequence[Repair] = (),
    repaired_with: str = "",
    tuned: str = "",
    tuned_from: str = "",
) -> str:
    """The file's text, with what each operator costs and why as comments."""
    lines = [HEAD, f"engine: {engine}", f"settings: {json.dumps(dict(settings))}"]
    lines += [f"ranges: {ranges}", f"corrected: {str(corrected).lower()}"]
    if repairs:
        lines.append(f"repairs: {json.dumps([repair.to_json() for repair in repairs])}")
        lines.append(f"repaired_with: {repaired_with}")
    if tuned:
        lines.append(f"tuned: {tuned}  # weights and biases that training moved")
        lines.append(f"tuned_from: {json.dumps(tuned_from)}")
    lists = (plan.shifted, plan.narrow, exact, plan.tables)
    lines += [f"{part}: {json.dumps(list(n))}" for part, n in zip(LISTS, lists, strict=True)]
    lines += [f"bits: {json.dumps(dict(plan.bits))}"] if plan.bits else []
    lines += ["operators:" + ("" if plan.decisions else " {}")]
    by_node = {cost.node: cost for cost in costs}
    width = min(MOST_WIDTH, max((len(_key(d.node)) for d in plan.decisions), default=0) + 7)
    for decision in plan.decisions:
        cost = by_node.get(decision.node)
        known = cost is not None and cost.float_us is not None and cost.int8_us is not None
        times = f"{cost.float_us:.0f} us in float, {cost.int8_us:.0f} in int8; " if known else ""  # type: ignore[union-attr]
        entry = f"{_key(decision.node)}: {decision.precision}"
        lines.append(f"  {entry:<{width}}  # {decision.operator}: {times}{decision.reason}")
    lines.append("scales:" + ("" if plan.activations else " {}"))
    lines += [f"  {_key(n)}: {json.dumps(q.to_json())}" for n, q in plan.activations.items()]
    return "\n".join(lines) + "\n"


def _key(name: str) -> str:
    """A name as YAML takes it for a key: as JSON writes it, and marked where it is long."""
    text = json.dumps(name).replace("\x7f", "\\u007f")
    return text if len(text) <= MOST_PLAIN_KEY else f"? {text}\n  "


def from_document(document: Any) -> PlanFile:
    """What a file says, from its plain data.

    Raises:
        BadValue: a part is missing, unknown or of another type; `keys` says which.
    """
    if not isinstance(document, Mapping):
        raise BadValue("this is no plan", hint="`edgedl compress ... --report DIR` writes one")
    for part in document:
        if part not in PARTS:
            raise BadValue(f"unknown key `{part}`", keys=(part,), hint=nearest(str(part), PARTS))
    for part in NEEDED:
        if part not in document:
            raise BadValue(f"the plan lacks `{part}`", hint=f"add `{part}: ...`")
    for part, known in (("engine", PLANNED_ENGINES), ("ranges", METHODS)):
        if document[part] not in known:
            value = str(document[part])
            raise BadValue(f"unknown {part} `{value}`", keys=(part,), hint=nearest(value, known))
    for part in ("settings", "operators", "scales"):
        if not isinstance(document[part], Mapping):
            message = f"`{part}` wants names with values"
            raise BadValue(message, keys=(part,), hint=f"`{part}: {{}}` where there are none")
    corrected = document.get("corrected", False)
    if not isinstance(corrected, bool):
        message = "`corrected` wants true or false"
        raise BadValue(message, keys=("corrected",), hint="`corrected: false` leaves biases alone")
    for part in LISTS:
        names = document.get(part, [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            message = f"`{part}` wants a list of names"
            raise BadValue(message, keys=(part,), hint=f"`{part}: []` where there are none")
    for name, state in document["operators"].items():
        if state not in STATES:
            message = f"`{name}` is `{state}`"
            raise BadValue(message, keys=("operators", name), hint="`int8` or `float`")
    scales = {name: _quantizer(value, name) for name, value in document["scales"].items()}
    return PlanFile(
        document["engine"],
        document["settings"],
        document["ranges"],
        document["operators"],
        scales,
        corrected,
        tuple(document.get("shifted", ())),
        tuple(document.get("narrow", ())),
        tuple(document.get("exact", ())),
        tuple(document["tables"]) if "tables" in document else None,
        _repairs(document.get("repairs", [])),
        str(document.get("repaired_with", "")),
        _text(document, "tuned"),
        _text(document, "tuned_from"),
        bits=_bits(document.get("bits", {})),
    )


def _bits(document: Any) -> Mapping[str, int]:
    if not isinstance(document, Mapping):
        message = "`bits` wants names with numbers of bits"
        raise BadValue(message, keys=("bits",), hint="leave out `bits`: weights have 8")
    for name, value in document.items():
        known = isinstance(value, int) and not isinstance(value, bool)
        if not known or not LEAST_BITS <= value <= MOST_BITS:
            message, hint = f"`{name}` has `{value}` bits", f"{LEAST_BITS} to {MOST_BITS}"
            raise BadValue(message, keys=("bits", name), hint=hint)
    return dict(document)


def _text(document: Mapping[str, Any], part: str) -> str:
    value = document.get(part, "")
    if not isinstance(value, str):
        raise BadValue(f"`{part}` wants text", keys=(part,), hint=f"leave out `{part}`")
    return value


def _repairs(document: Any) -> tuple[Repair, ...]:
    if not isinstance(document, list):
        message = "`repairs` wants a list"
        raise BadValue(message, keys=("repairs",), hint="`repairs: []` where there are none")
    found = []
    for i, one in enumerate(document):
        try:
            found.append(from_plain(Repair, one))
        except BadValue as error:
            raise error.under(("repairs", i)) from None
    return tuple(found)


def _quantizer(value: Any, name: str) -> Quantizer:
    keys = ("scales", name)
    if not isinstance(value, Mapping):
        raise BadValue(f"the scale of `{name}` wants keys with values", keys=keys, hint=LIKE)
    try:
        found = from_plain(Quantizer, value)
    except BadValue as error:
        wrong = error.under(keys)
        raise BadValue(wrong.message, keys=wrong.keys, hint=wrong.hint or LIKE) from None
    low, high = (0, 255) if found.dtype == "uint8" else (-128, 127)
    if not SMALLEST_SCALE <= found.scale <= LARGEST_SCALE:
        message = (
            f"the scale of `{name}` is not within {SMALLEST_SCALE:.2g} and {LARGEST_SCALE:.2g}"
        )
        raise BadValue(message, keys=(*keys, "scale"), hint=LIKE)
    if not low <= found.zero_point <= high:
        message = f"the zero point of `{name}` is not within {low} and {high}"
        raise BadValue(message, keys=(*keys, "zero_point"), hint=LIKE)
    return found


def fit(plan: PlanFile, model: Model) -> Layout:
    """Where the plan puts quantizers in a model.

    Raises:
        BadValue: the plan names an operator or tensor that the model has not, lacks an operator
            that it has, puts one into int8 that cannot be, or gives tensors that share a scale
            unlike ones.
    """
    graph = read(model.path)
    scheme = SCHEMES[plan.engine]
    able = {d.node: d for d in layout(graph, scheme).decisions}
    kinds = {node.name: node.op_type for node in graph.graph.all_nodes()}
    for name, state in plan.operators.items():
        if name not in able and name in kinds:
            what = f"`{name}` ({kinds[name]})"
            raise BadValue(
                f"{what} cannot compute in int8: {plan.engine} has no int8 kernel that fits it"
                if state == "int8"
                else f"{what} has no choice: it computes in float",
                keys=("operators", name),
                hint="leave it out of the plan",
            )
        if name not in able:
            message = f"the model has no operator `{name}` with a choice"
            raise BadValue(message, keys=("operators", name), hint=nearest(name, able))
    for name in able:
        if name not in plan.operators:
            raise BadValue(
                f"the plan lacks operator `{name}`",
                keys=("operators",),
                hint=f"add `{name}: float` or `{name}: int8`; is it the plan of another model?",
            )
    kept = {
        name: BY_HAND
        for name, state in plan.operators.items()
        if state == "float" and able[name].precision == "int8"
    }
    found = layout(graph, scheme, keep_float=kept)
    now = {d.node: d for d in found.decisions}
    for name, state in plan.operators.items():
        if state == "int8" and (name not in now or now[name].precision != "int8"):
            reason = now[name].reason if name in now else "what it reads is in float"
            message = f"`{name}` cannot compute in int8: {reason}"
            raise BadValue(message, keys=("operators", name), hint=f"`{name}: float`")
    tensors = {v.name or "" for n in graph.graph for v in (*n.inputs, *n.outputs) if v is not None}
    for name in plan.scales:
        if name not in tensors:
            message = f"the model has no tensor `{name}`"
            raise BadValue(message, keys=("scales", name), hint=nearest(name, found.tensors))
    sequences = int8_recurrent(found.decisions)
    for part, names in (
        ("shifted", plan.shifted), ("narrow", plan.narrow), ("bits", tuple(plan.bits)),
    ):  # fmt: skip
        for name in names:
            if name not in found.weights and not (part == "narrow" and name in sequences):
                message = f"`{name}` has no int8 weights"
                raise BadValue(message, keys=(part,), hint="leave it out")
    nodes = {node.name or "" for node in graph.graph.all_nodes()}
    for part, names in (("exact", plan.exact), ("tables", plan.tables or ())):
        known = nodes if part == "exact" else set(found.tables)
        for name in names:
            if name not in known:
                message = f"`{name}` is not among the model's {part} nodes"
                raise BadValue(message, keys=(part,), hint=nearest(name, known))
    _same_in_groups(plan, found)
    return found


def _same_in_groups(plan: PlanFile, found: Layout) -> None:
    first: dict[str, str] = {}
    for name, group in found.groups.items():
        if name not in plan.scales:
            continue
        other = first.setdefault(group, name)
        if plan.scales[other] != plan.scales[name]:
            raise BadValue(
                f"`{name}` must have the scale of `{other}`: one is the other, moved",
                keys=("scales", name),
                hint="change both, or leave both out",
            )
