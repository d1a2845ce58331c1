"""Any model of timm, where timm is installed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from edgedl.core.errors import BadValue, EdgeError, Missing, nearest
from edgedl.core.registry import load
from edgedl.train.networks.inputs import image, values
from edgedl.train.shapes import TensorShape

HINT = "pip install timm, and a torchvision that is built for this torch"


def timm(
    inputs: Mapping[str, TensorShape],
    outputs: int,
    *,
    model: str,
    weights: str = "",
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A model of timm (Wightman, PyTorch Image Models) by its name there.

    Image float32 [batch, channels, height, width] to logits [batch, outputs]. Nothing is
    downloaded.

    Args:
        inputs: one image.
        outputs: classes or values.
        model: as `timm.list_models()` has it.
        weights: a safetensors file to begin with; weights are drawn anew where empty. A last layer
            of another size stays new.
        options: what else `timm.create_model` takes, as `{"drop_path_rate": 0.1}`.

    Raises:
        Missing: timm cannot be imported.
        BadValue: it has no such model, the input is no image, or the file does not hold its
            weights.
    """
    channels, height, width = image(inputs)
    values(outputs)
    if not _of_timm("is_model")(model.split(".")[0]):
        hint = nearest(model, _of_timm("list_models")())
        raise BadValue(f"timm has no model `{model}`", keys=("model",), hint=hint)
    chosen: dict[str, Any] = {"num_classes": outputs, "in_chans": channels, **(options or {})}
    known = _of_timm("get_pretrained_cfg")(model)
    if "img_size" not in chosen and getattr(known, "fixed_input_size", False):
        chosen["img_size"] = (height, width)
    network: nn.Module = _of_timm("create_model")(model, pretrained=False, **chosen)
    if weights:
        load_fitting(network, Path(weights))
    return network


def load_fitting(network: nn.Module, path: Path) -> None:
    """Loads a safetensors file's weights, but for those of another shape, which only the last layer
    should have.

    Raises:
        BadValue: there is no such file, it is damaged, or it holds little of the network.
    """
    try:
        held = load("safetensors.torch:load_file", "reading weights")(path)
    except EdgeError:
        raise
    except Exception as error:
        message = f"`{path}` holds no safetensors weights ({type(error).__name__}: {error})"
        hint = "weights: FILE.safetensors"
        raise BadValue(message, keys=("weights",), hint=hint) from error
    wanted = network.state_dict()
    fitting = {n: v for n, v in held.items() if n in wanted and v.shape == wanted[n].shape}
    if 2 * len(fitting) < len(wanted):
        message = f"`{path}` fits {len(fitting)} of the network's {len(wanted)} tensors"
        raise BadValue(message, keys=("weights",), hint="take the weights of this very model")
    network.load_state_dict(fitting, strict=False)


def _of_timm(name: str) -> Any:
    try:
        return load(f"timm:{name}", "network `timm`")
    except Missing as error:
        raise Missing(error.message, hint=HINT) from error
    except EdgeError:
        raise
    except Exception as error:
        # A torchvision that does not fit torch takes timm with it, by an error of any kind.
        first = str(error).split("\n")[0]
        message = f"timm cannot be imported ({type(error).__name__}: {first})"
        raise Missing(message, hint=HINT) from error
