"""What kinds of input a network takes, and what it says where it gets another."""

from __future__ import annotations

from collections.abc import Mapping

from edgedl.core.errors import BadValue
from edgedl.train.shapes import TensorShape

Inputs = Mapping[str, TensorShape]


def image(inputs: Inputs) -> tuple[int, int, int]:
    """Channels, height and width of the one image.

    Raises:
        BadValue: there is another number of inputs, or it is no image.
    """
    shape = _only(inputs, "one image, channels x height x width")
    if len(shape.shape) != 3 or shape.whole:
        raise _unfit(inputs, "one image, channels x height x width")
    channels, height, width = shape.shape
    return channels, height, width


def plane(inputs: Inputs) -> tuple[int, int]:
    """Bands and frames of a sound's features, with or without a single channel before them.

    Raises:
        BadValue: there is another number of inputs, or it is none.
    """
    wanted = "a sound's features, bands x frames or 1 x bands x frames"
    shape = _only(inputs, wanted)
    if shape.whole or len(shape.shape) not in (2, 3) or shape.shape[:-2] not in ((), (1,)):
        raise _unfit(inputs, wanted)
    bands, frames = shape.shape[-2:]
    return bands, frames


def series(inputs: Inputs) -> tuple[int, int]:
    """Channels and steps of a series, with or without a single channel before them.

    Raises:
        BadValue: there is another number of inputs, or it is none.
    """
    wanted = "one series, channels x time"
    shape = _only(inputs, wanted)
    if shape.whole or len(shape.shape) not in (2, 3) or shape.shape[:-2] not in ((), (1,)):
        raise _unfit(inputs, wanted)
    channels, steps = shape.shape[-2:]
    return channels, steps


def numbers(inputs: Inputs) -> tuple[int, ...]:
    """The shape of the one input, whatever it is.

    Raises:
        BadValue: there is another number of inputs, or it holds ids.
    """
    shape = _only(inputs, "one row of numbers, or an array of them")
    if shape.whole:
        raise _unfit(inputs, "one row of numbers, or an array of them")
    return shape.shape


def values(outputs: int) -> int:
    """The number of classes or values, for a network that cannot give its input back.

    Raises:
        BadValue: there is none.
    """
    if outputs < 1:
        raise BadValue(
            "it tells classes or values, and this data has none",
            hint="for data without labels there is `autoencoder`, and for images `unet`",
        )
    return outputs


def positive(**settings: float) -> None:
    """Refuses settings that are not above 0.

    Raises:
        BadValue: one is not; `keys` names it.
    """
    for name, value in settings.items():
        if not value > 0:
            raise BadValue(f"`{name}` is {value}", keys=(name,), hint=f"{name} is above 0")


def share(**settings: float) -> None:
    """Refuses settings that are not shares of what they drop: from 0 to below 1.

    Raises:
        BadValue: one is not; `keys` names it.
    """
    for name, value in settings.items():
        if not 0 <= value < 1:
            hint = f"{name} is 0 or more, and below 1"
            raise BadValue(f"`{name}` is {value}", keys=(name,), hint=hint)


def ids(inputs: Inputs, name: str, given: int, setting: str) -> int:
    """How many different ids an input holds, as the setting or else the data says.

    Raises:
        BadValue: neither says, or the setting is too small for the data.
    """
    counted = inputs[name].count
    if given < 0 or not (given or counted):
        message = f"nobody says how many different ids `{name}` has"
        raise BadValue(message, keys=(setting,), hint=f"set `{setting}`, like {setting}: 8000")
    if given and given < counted:
        message = f"`{setting}` is {given}, and `{name}` has {counted} different ids"
        raise BadValue(message, keys=(setting,), hint=f"{setting}: {counted}, or leave it out")
    return given or counted


def _only(inputs: Inputs, wanted: str) -> TensorShape:
    if len(inputs) != 1:
        raise _unfit(inputs, wanted)
    return next(iter(inputs.values()))


def _unfit(inputs: Inputs, wanted: str) -> BadValue:
    given = ", ".join(f"`{name}` ({shape})" for name, shape in inputs.items()) or "nothing"
    return BadValue(
        f"it takes {wanted}, and the data has {given}",
        hint="choose a network for this data, or prepare the data in that shape",
    )
