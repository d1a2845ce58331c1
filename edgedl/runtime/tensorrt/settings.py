"""How an engine is to be built: plain values that travel in a bundle, beside the portable model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgedl.core.errors import BadOption, BadValue, nearest
from edgedl.core.fields import from_plain, to_plain
from edgedl.core.model import Signature

Shape = tuple[int, ...]
Hardware = Literal["same", "same_compute_capability", "ampere_plus"]
Tiling = Literal["none", "fast", "moderate", "full"]


@dataclass(frozen=True)
class Bounds:
    """The least, the usual and the largest shape of one input; its values where it is a shape."""

    input: str
    least: Shape
    usual: Shape
    most: Shape

    def __post_init__(self) -> None:
        if not len(self.least) == len(self.usual) == len(self.most):
            raise BadValue(
                f"the shapes of `{self.input}` have unlike ranks: {_written(self.least)},"
                f" {_written(self.usual)}, {_written(self.most)}",
                hint="a least, a usual and a largest size for each of its axes",
            )
        for low, usual, high in zip(self.least, self.usual, self.most, strict=True):
            if not 0 <= low <= usual <= high:
                raise BadValue(
                    f"the sizes of `{self.input}` do not grow: {low}, {usual}, {high}",
                    hint="least first, then usual, then most",
                )

    def __str__(self) -> str:
        return f"{self.input}={_written(self.least)} to {_written(self.most)}"


@dataclass(frozen=True)
class Profile:
    """Shapes that one set of kernels serves, by input; inputs of fixed shape need none."""

    inputs: tuple[Bounds, ...]

    def __post_init__(self) -> None:
        names = [bounds.input for bounds in self.inputs]
        for name in names:
            if names.count(name) > 1:
                raise BadValue(f"`{name}` has two bounds in one profile", hint="one an input")

    def bounds(self, name: str) -> Bounds | None:
        """The bounds of an input, where the profile has them."""
        return next((bounds for bounds in self.inputs if bounds.input == name), None)

    def __str__(self) -> str:
        return ", ".join(map(str, self.inputs))


@dataclass(frozen=True)
class Build:
    """What a builder is told besides the model; precision stands in the model alone.

    Attributes:
        profiles: shapes to serve where axes are dynamic, the preferred first: buckets.
        workspace_bytes: the most memory that a kernel may take beside its tensors.
        version_compatible: a plan that later TensorRT of the same major version opens.
        hardware: what GPUs the plan runs on: this architecture, any of this compute capability, or
            Ampere and later.
        weight_streaming: weights may stay in host memory, and are brought in as they are needed.
        refit: weights of the plan may be exchanged.
        sparse: kernels for weights of which two of four neighbours are 0 may be taken.
        dla_core: the deep-learning accelerator that takes what it can; the GPU takes the rest.
        compute_capabilities: `SM86` and so on, GPUs that TensorRT-RTX builds for ahead of time.
        optimization_level: 0 to 5, the builder's effort; its own choice where None.
        tiling: how long it looks for a schedule that keeps tensors in the cache.
    """

    profiles: tuple[Profile, ...] = ()
    workspace_bytes: int | None = None
    version_compatible: bool = False
    hardware: Hardware = "same"
    weight_streaming: bool = False
    refit: bool = False
    sparse: bool = False
    dla_core: int | None = None
    compute_capabilities: tuple[str, ...] = ()
    optimization_level: int | None = None
    tiling: Tiling | None = None

    def __post_init__(self) -> None:
        for name, low, high in (
            ("workspace_bytes", 1, 1 << 48),
            ("dla_core", 0, 15),
            ("optimization_level", 0, 5),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise BadValue(
                    f"{name} is {value}", keys=(name,), hint=f"a number from {low} to {high}"
                )

    def to_json(self) -> dict[str, Any]:
        """What differs from a build that nothing was said of, as `build_of` reads it."""
        return {
            name: value
            for name, value in to_plain(self).items()
            if value != to_plain(getattr(Build(), name))
        }


def build_of(document: Any) -> Build:
    """The build in a bundle's settings or a recipe.

    Raises:
        BadValue: a setting is unknown, or its value is none.
    """
    return from_plain(Build, document)


def profile_seen(
    signature: Signature, shapes: Sequence[Mapping[str, Sequence[int]]]
) -> tuple[Profile, ...]:
    """A profile for the inputs of a model whose axes are not all fixed, from the shapes that were
    seen of them: the smallest, the middle and the largest size of each axis; none where all axes
    are fixed, or nothing was seen."""
    found = []
    for tensor in signature.inputs:
        fixed = tensor.shape is not None and all(isinstance(size, int) for size in tensor.shape)
        seen = [tuple(one[tensor.name]) for one in shapes if tensor.name in one]
        if fixed or not seen:
            continue
        sizes = [sorted(axis) for axis in zip(*seen, strict=True)]
        least, usual, most = (
            tuple(axis[at] for axis in sizes) for at in (0, (len(seen) - 1) // 2, -1)
        )
        found.append(Bounds(tensor.name, least, usual, most))
    return (Profile(tuple(found)),) if found else ()


def check_profiles(build: Build, shapes: Mapping[str, Sequence[int]]) -> None:
    """Hold a build's profiles against a network's inputs.

    Args:
        shapes: by input, -1 for an axis that is dynamic.

    Raises:
        BadOption: a profile names no input, has another rank, or another size than a fixed one; or
            an input with a dynamic axis has no bounds.
    """
    for profile in build.profiles:
        for bounds in profile.inputs:
            if bounds.input not in shapes:
                raise BadOption(
                    f"the profile is for `{bounds.input}`, which is not an input",
                    hint=nearest(bounds.input, shapes),
                )
            _check_fits(bounds, shapes[bounds.input])
    dynamic = [name for name, shape in shapes.items() if -1 in shape]
    for name in dynamic:
        if not build.profiles or any(profile.bounds(name) is None for profile in build.profiles):
            shape = _written(shapes[name])
            raise BadOption(
                f"input `{name}` has the shape {shape}, whose axes of `?` have no bounds",
                hint=f"fix them with `--shape {name}={shape.replace('?', '8')}`",
            )


def _check_fits(bounds: Bounds, shape: Sequence[int]) -> None:
    if len(bounds.least) != len(shape):
        raise BadOption(
            f"the profile gives `{bounds.input}` {len(bounds.least)} axes, the model {len(shape)}",
            hint=f"the model's shape is {_written(shape)}",
        )
    for axis, (size, low, high) in enumerate(zip(shape, bounds.least, bounds.most, strict=True)):
        if size != -1 and not low == high == size:
            raise BadOption(
                f"axis {axis} of `{bounds.input}` is {size} in the model, and {low} to {high} in"
                " the profile",
                hint=f"the model's shape is {_written(shape)}; `?` may be bounded",
            )


def _written(shape: Sequence[int]) -> str:
    return "x".join("?" if size == -1 else str(size) for size in shape) or "one value"
