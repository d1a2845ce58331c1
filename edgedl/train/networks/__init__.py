"""Networks by name: to add one, write a function that makes it, a line here, and a test."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from edgedl.core.errors import BadOption, BadValue, EdgeError
from edgedl.core.own import reason_of
from edgedl.core.registry import load, resolve
from edgedl.train.networks.own import own_network
from edgedl.train.networks.settings import read, settings_of
from edgedl.train.shapes import TensorShape

if TYPE_CHECKING:
    from torch import nn

GROUP = "edgedl.networks"
HERE = "edgedl.train.networks"
NETWORKS: Mapping[str, str] = {
    "resnet8": f"{HERE}.resnet:resnet8",
    "resnet18": f"{HERE}.resnet:resnet18",
    "resnet50": f"{HERE}.resnet:resnet50",
    "mobilenetv1": f"{HERE}.mobilenetv1:mobilenetv1",
    "mobilenetv2": f"{HERE}.mobilenetv2:mobilenetv2",
    "mobilenetv3_small": f"{HERE}.mobilenetv3:mobilenetv3_small",
    "mobilenetv3_large": f"{HERE}.mobilenetv3:mobilenetv3_large",
    **{f"efficientnet_lite{i}": f"{HERE}.efficientnet:efficientnet_lite{i}" for i in range(5)},
    "ds_cnn": f"{HERE}.ds_cnn:ds_cnn",
    "vit": f"{HERE}.vit:vit",
    "unet": f"{HERE}.unet:unet",
    "ssd": f"{HERE}.ssd:ssd",
    "lstm": f"{HERE}.recurrent:lstm",
    "gru": f"{HERE}.recurrent:gru",
    "streaming_gru": f"{HERE}.streaming:streaming_gru",
    "tcn": f"{HERE}.tcn:tcn",
    "mlp": f"{HERE}.mlp:mlp",
    "autoencoder": f"{HERE}.autoencoder:autoencoder",
    "text_encoder": f"{HERE}.text_encoder:text_encoder",
    "two_tower": f"{HERE}.two_tower:two_tower",
    "transformers": f"{HERE}.transformers:transformers",
    "timm": f"{HERE}.timm:timm",
    "onnx": f"{HERE}.onnx:onnx",
}

# Networks that say themselves what they give.
OF_THEIR_OWN = ("onnx",)


def build(
    name: str,
    inputs: Mapping[str, TensorShape],
    outputs: int | None,
    settings: Mapping[str, Any],
    places: tuple[int, ...] = (),
) -> nn.Module:
    """The network of this name, its weights drawn anew, once it has answered a batch of two.

    Its `forward` takes the inputs in their order, each with a batch axis in front, and gives logits
    of classes [batch, outputs], values [batch, outputs], the reconstruction of the first input
    where `outputs` is 0, logits along an axis more where it answers for each pixel [batch, outputs,
    height, width] or step [batch, steps, outputs], or several of these by name.

    Weights come from torch's random state: `torch.manual_seed` before makes them the same again.

    Args:
        name: a name of `NETWORKS`, of an entry point in the group `edgedl.networks`, or the user's
            own `module:callable` or `file.py:callable`, which takes (inputs, outputs, *, settings
            by keyword).
        inputs: by name, in the order that `forward` takes them.
        outputs: classes, or values to regress; 0 where the input itself is the target; None where
            no labels say it, and the network does, as `onnx`.
        settings: of the network, as plain data: `{"width": 16}`.
        places: height and width of the mask that is to be answered, where there is one.

    Raises:
        BadValue: no such network or setting, or it does not fit the inputs; `keys` says which
            setting.
        Missing: a package that the network needs is not installed.
    """
    factory = factory_of(name)
    if outputs is None and name not in OF_THEIR_OWN:
        message = f"network `{name}` has to know how many answers it gives, and no labels say it"
        raise BadValue(message, keys=("name",), hint="network: {name: onnx, file: model.onnx}")
    try:
        chosen = read(factory, settings)
        network: nn.Module = factory(inputs, outputs, **chosen)
    except BadValue as error:
        message = f"network `{name}`: {error.message}"
        hint = error.hint or _settings(factory)
        raise BadValue(message, keys=error.keys, where=error.where, hint=hint) from error
    except EdgeError:
        raise
    except Exception as error:
        written = ", ".join(f"{key}: {value}" for key, value in settings.items()) or "none"
        raise BadValue(
            f"network `{name}` cannot be made for {shown(inputs)}: {reason_of(error, name)}",
            hint=f"settings given: {written}; {_settings(factory)}",
        ) from error
    load(f"{HERE}.trial:try_out", f"network `{name}`")(name, network, inputs, outputs, places)
    return network


def factory_of(name: str) -> Callable[..., Any]:
    """What makes the network of this name: called with inputs, outputs and its settings.

    Raises:
        BadValue: there is none.
        Missing: a package that it needs is not installed.
    """
    if ":" in name:
        return own_network(name)
    try:
        factory: Callable[..., Any] = resolve(NETWORKS, name, kind="network", group=GROUP)
    except BadOption as error:
        hint = f"{error.hint}; or your own, as module:callable"
        raise BadValue(error.message, keys=("name",), hint=hint) from error
    return factory


def _settings(factory: Callable[..., Any]) -> str:
    """A network's settings with their defaults, as a hint."""
    signature = inspect.signature(settings_of(factory))
    return "its settings: " + ", ".join(
        one.name if one.default is one.empty else f"{one.name}={one.default!r}"
        for one in signature.parameters.values()
    )


def shown(inputs: Mapping[str, TensorShape]) -> str:
    """The inputs as people read them: `image` (float32 of 3 x 32 x 32)."""
    return ", ".join(f"`{name}` ({shape})" for name, shape in inputs.items())
