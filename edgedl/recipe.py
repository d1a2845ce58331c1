"""A recipe: what a network is trained on, how, and what becomes of it, as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import GenericAlias
from typing import TYPE_CHECKING, Any, Literal, Union

from edgedl.core.errors import BadOption, BadValue, EdgeError, nearest
from edgedl.core.fields import from_plain, value_from_plain
from edgedl.core.registry import load, resolve
from edgedl.core.schema import DEFINITIONS, DIALECT, of_type, schema_of
from edgedl.core.target import TARGETS
from edgedl.core.units import parse_bytes, parse_drop, parse_ms
from edgedl.train.data.settings import Data
from edgedl.train.networks import NETWORKS
from edgedl.train.settings import Fit
from edgedl.yamls import Keys, Located, read_yaml

if TYPE_CHECKING:
    from edgedl.train.distil.settings import Distillation
    from edgedl.train.qat import Qat
    from edgedl.train.shrink.step import Step

INCLUDE = "include"
MOST_INCLUDES = 16
# Keys whose settings lie beside what torch does with them: loaded where a recipe has them.
LATER: Mapping[str, str] = {
    "distil": "edgedl.train.distil.settings:Distillation",
    "shrink": "edgedl.train.shrink:STEPS",
    "qat": "edgedl.train.qat:Qat",
}
OLDEST_OPSET, NEWEST_OPSET = 18, 23


@dataclass(frozen=True)
class Network:
    """A network's name, one of ours or `module:callable`, and its settings."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, document: Any) -> Network:
        """What stands under `network:`: a word, or a name with settings beside it.

        Raises:
            BadValue: it is neither.
        """
        if isinstance(document, str):
            return cls(document)
        if not isinstance(document, Mapping):
            raise BadValue("`network` wants a name", hint="network: resnet8")
        name = document.get("name")
        if not isinstance(name, str):
            raise BadValue("`network` lacks `name`", hint="network: {name: resnet8}")
        return cls(name, {key: value for key, value in document.items() if key != "name"})


@dataclass(frozen=True, kw_only=True)
class Axis:
    """An axis of an input that is free in the exported model, beside the first: its place, and what
    it is called."""

    input: str
    axis: int
    name: str

    def __post_init__(self) -> None:
        if self.axis < 1:
            raise BadValue(
                f"`axis` is {self.axis}", keys=("axis",), hint="1 or more; 0 is the batch"
            )


@dataclass(frozen=True, kw_only=True)
class Export:
    """How the network is written as ONNX.

    Attributes:
        opset: of ONNX; the exporter's own choice where None.
        outputs: names for what the network gives, in order.
        axes: further axes that are free.
        tolerance: by how much answers may differ, over their largest magnitude.
        samples: on how many that is looked at.
    """

    opset: int | None = None
    outputs: tuple[str, ...] = ()
    axes: tuple[Axis, ...] = ()
    tolerance: float = 1e-4
    samples: int = 16

    def __post_init__(self) -> None:
        if self.opset is not None and not OLDEST_OPSET <= self.opset <= NEWEST_OPSET:
            hint = f"{OLDEST_OPSET} to {NEWEST_OPSET}"
            raise BadValue(f"`opset` is {self.opset}", keys=("opset",), hint=hint)
        if self.tolerance <= 0:
            raise BadValue("`tolerance` is not positive", keys=("tolerance",), hint="like 1e-4")
        if self.samples < 1:
            raise BadValue("`samples` is less than 1", keys=("samples",), hint="like 16")

    @property
    def free(self) -> dict[str, dict[int, str]]:
        """Names of the further axes that are free, by input and place."""
        found: dict[str, dict[int, str]] = {}
        for one in self.axes:
            found.setdefault(one.input, {})[one.axis] = one.name
        return found


@dataclass(frozen=True, kw_only=True)
class Compress:
    """What `edgedl compress` is asked for; the words and units are its options'.

    Attributes:
        precision: what may ship.
        max_drop: `1%` or `0.01`; max_latency: `5ms`; max_bytes: `500kB`.
        metric: what may not fall; that of training where None.
        calibration: training samples that calibrate.
    """

    precision: Literal["int8", "auto", "weights", "bf16", "float16", "float32", "dynamic"] = "int8"
    target: str = "cpu"
    effort: Literal["fast", "normal", "max"] = "fast"
    threads: int = 1
    max_drop: str | None = None
    max_latency: str | None = None
    max_bytes: str | None = None
    metric: str | None = None
    calibration: int = 256

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            hint = nearest(self.target, TARGETS)
            raise BadValue(f"`target` is `{self.target}`", keys=("target",), hint=hint)
        for name in ("threads", "calibration"):
            if getattr(self, name) < 1:
                raise BadValue(f"`{name}` is {getattr(self, name)}", keys=(name,), hint="1 or more")
        for name in ("max_drop", "max_latency", "max_bytes"):
            try:
                getattr(self, f"parsed_{name}")()
            except BadOption as error:
                raise BadValue(error.message, keys=(name,), hint=error.hint) from error

    def parsed_max_drop(self) -> float | None:
        """A fraction."""
        return None if self.max_drop is None else parse_drop(self.max_drop)

    def parsed_max_latency(self) -> float | None:
        """Milliseconds."""
        return None if self.max_latency is None else parse_ms(self.max_latency)

    def parsed_max_bytes(self) -> int | None:
        """Bytes."""
        return None if self.max_bytes is None else parse_bytes(self.max_bytes)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """How the float model and the bundle are timed beside one another."""

    seconds: float = 10.0
    threads: int = 1

    def __post_init__(self) -> None:
        if self.seconds <= 0:
            raise BadValue("`seconds` is not positive", keys=("seconds",), hint="like 10")
        if self.threads < 1:
            raise BadValue(f"`threads` is {self.threads}", keys=("threads",), hint="1 or more")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What we want: its keys in the order of the line.

    Attributes:
        seed: of everything that is drawn: the split, first weights, the order of samples.
        distil: a teacher of all its training.
        shrink: steps behind training, in order.
        qat: training of the weights and scales that `compress` rounded.
        where: the file that it was read from.
        compress, bench: None where the line ends before them.
    """

    name: str
    data: Data
    network: Network
    train: Fit = field(default_factory=Fit)
    export: Export = field(default_factory=Export)
    compress: Compress | None = field(default_factory=Compress)
    bench: Bench | None = field(default_factory=Bench)
    distil: Distillation | None = None
    shrink: tuple[Step, ...] = ()
    qat: Qat | None = None
    seed: int = 0
    where: Path | None = None
    source: Located | None = field(default=None, compare=False, repr=False)

    def located(self, error: EdgeError, *keys: str | int) -> EdgeError:
        """What went wrong with what stands under these keys, with its line where it has none."""
        if self.source is None or error.where is not None:
            return error
        below = error.keys if isinstance(error, BadValue) else ()
        return self.source.error((*keys, *below), error.message, error.hint)

    def instead(self, error: EdgeError, *keys: str | int) -> EdgeError:
        """The same error, at the line of what stands under these keys: a user knows no other place
        of it."""
        if self.source is None:
            return error
        where = self.source.error(keys, "").where
        return type(error)(error.message, where=where, hint=error.hint)


@dataclass(frozen=True)
class _Stages:
    """The keys that are dataclasses all through; `from_plain` reads them in one go."""

    data: Data
    train: Fit = field(default_factory=Fit)
    export: Export = field(default_factory=Export)
    compress: Compress | None = field(default_factory=Compress)
    bench: Bench | None = field(default_factory=Bench)
    seed: int = 0
    name: str = ""


def _later(key: str, document: Any) -> Any:
    try:
        return value_from_plain(_kind(key), document)
    except BadValue as error:
        raise error.under((key,)) from None


def _kind(key: str) -> Any:
    """The type of what stands under a key of `LATER`."""
    if key != "shrink":
        return load(LATER[key], f"`{key}`")
    table: Mapping[str, str] = load(LATER[key], f"`{key}`")
    steps = tuple(resolve(table, name, kind="step") for name in table)
    return GenericAlias(tuple, (Union.__getitem__(steps), ...))


def schema() -> dict[str, Any]:
    """The JSON Schema of a recipe, for editors."""
    found = schema_of(_Stages)
    network = {
        "description": "a name of ours or `module:callable`, its settings beside it",
        "anyOf": [
            {"type": "string"},
            {"type": "object", "properties": {"name": {"type": "string", "examples": [*NETWORKS]}},
             "required": ["name"]},
        ],
    }  # fmt: skip
    include = {"type": "string", "description": "a recipe that this one stands above"}
    later = {key: of_type(_kind(key)) for key in LATER}
    properties = {**found["properties"], "network": network, **later, INCLUDE: include}
    # With `include`, another file may hold what is needed.
    return {
        "$schema": DIALECT, "title": "edgedl recipe", **found, "properties": properties,
        "required": [], "$defs": DEFINITIONS,
    }  # fmt: skip


def read_recipe(path: str | Path) -> Recipe:
    """The recipe in a YAML file.

    `include: FILE` takes what another recipe says, from its place; what this one says stands
    above it, key by key.

    Raises:
        BadValue: the file is missing, is no YAML, or is no recipe; the error has the line of the
            file that says it.
    """
    path = Path(path)
    found = _included(path, ())
    recipe = found.read(lambda document: _recipe(document, path))
    return replace(recipe, source=found)


def _recipe(document: Any, path: Path) -> Recipe:
    if not isinstance(document, Mapping):
        raise BadValue("holds no recipe", hint="it begins with `data:`")
    others = ("network", INCLUDE, *LATER)
    rest = {key: value for key, value in document.items() if key not in others}
    stages = from_plain(_Stages, rest, also=others)
    if "network" not in document:
        raise BadValue("the document lacks `network`", hint="add `network: resnet8`")
    try:
        network = Network.of(document["network"])
    except BadValue as error:
        raise error.under(("network",)) from None
    if stages.seed < 0:
        raise BadValue(f"`seed` is {stages.seed}", keys=("seed",), hint="0 or more")
    return Recipe(
        name=stages.name or path.stem,
        data=stages.data,
        network=network,
        train=stages.train,
        export=stages.export,
        compress=stages.compress,
        bench=stages.bench,
        seed=stages.seed,
        **{key: _later(key, document[key]) for key in LATER if document.get(key) is not None},
        where=path,
    )


@dataclass(frozen=True, eq=False)
class _Merged(Located):
    """Data of several files; `origins` has the file that says what lies under the keys."""

    origins: Mapping[Keys, Path] = field(default_factory=dict)

    def error(self, keys: Keys, message: str, hint: str | None = None) -> BadValue:
        known = next((keys[:n] for n in range(len(keys), 0, -1) if keys[:n] in self.lines), ())
        file = self.origins.get(known, self.path)
        where = f"{file}:{self.lines.get(known, 1)}"
        return BadValue(message, keys=keys, where=where, hint=hint)


def _included(path: Path, above: tuple[Path, ...]) -> _Merged:
    """A recipe's plain data with that of the one that it includes below it."""
    found = read_yaml(path)
    own = _Merged(path, found.data, found.lines, dict.fromkeys(found.lines, path))
    if not isinstance(found.data, Mapping) or INCLUDE not in found.data:
        return own
    wanted = found.data[INCLUDE]
    if not isinstance(wanted, str):
        raise own.error((INCLUDE,), "`include` wants one file", "include: base.yaml")
    below = path.parent / wanted
    resolved = below.resolve()
    chain = (*above, path.resolve())
    if resolved in chain:
        circle = " -> ".join(one.name for one in (*chain[chain.index(resolved) :], resolved))
        raise own.error((INCLUDE,), f"recipes include one another: {circle}", "break the circle")
    if len(chain) > MOST_INCLUDES:
        raise own.error(
            (INCLUDE,), f"more than {MOST_INCLUDES} recipes deep", "write some of them as one"
        )
    if not below.is_file():
        raise own.error((INCLUDE,), f"`{wanted}`: no such file", f"it is looked for at {below}")
    base = _included(below, chain)
    if not isinstance(base.data, Mapping):
        raise own.error((INCLUDE,), f"`{wanted}` holds no recipe", "it begins with `data:`")
    return _over(own, base)


def _over(own: _Merged, base: _Merged) -> _Merged:
    """One document above another: mappings key by key, everything else as a whole."""
    lines, origins = dict(base.lines), dict(base.origins)

    def forget(keys: Keys) -> None:
        for known in [one for one in lines if one[: len(keys)] == keys]:
            del lines[known]
            origins.pop(known, None)

    def take(keys: Keys) -> None:
        for known, line in own.lines.items():
            if known[: len(keys)] == keys:
                lines[known] = line
                origins[known] = own.origins[known]

    def merged(upper: Any, lower: Any, keys: Keys) -> Any:
        if isinstance(upper, Mapping) and isinstance(lower, Mapping) and not _other(upper, lower):
            lines[keys], origins[keys] = own.lines[keys], own.origins[keys]
            result = dict(lower)
            for key, value in upper.items():
                result[key] = merged(value, lower.get(key), (*keys, key))
            return result
        forget(keys)
        take(keys)
        return upper

    data = merged(own.data, base.data, ())
    data.pop(INCLUDE, None)
    return replace(own, data=data, lines=lines, origins=origins)


def _other(upper: Mapping[str, Any], lower: Mapping[str, Any]) -> bool:
    """Whether both have names that differ: settings of one say nothing of the other."""
    return "name" in upper and "name" in lower and upper["name"] != lower["name"]
