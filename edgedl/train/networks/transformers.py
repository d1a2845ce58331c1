"""Any model of `transformers`, by its config or from a local folder."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from edgedl.core.errors import BadValue, EdgeError, nearest
from edgedl.core.registry import load
from edgedl.train.networks.inputs import Inputs, values
from edgedl.train.shapes import TensorShape

PURPOSE = "network `transformers`"
TEXT = "AutoModelForSequenceClassification"
IMAGE = "AutoModelForImageClassification"
SOUND = "AutoModelForAudioClassification"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def transformers(
    inputs: Mapping[str, TensorShape],
    outputs: int,
    *,
    config: Mapping[str, Any] | None = None,
    folder: str = "",
    model: str = "",
) -> nn.Module:
    """A model of Hugging Face's `transformers` (Wolf et al., 2020) that gives logits.

    Inputs of its own names, as `input_ids`, `attention_mask` or `pixel_values`, or one input of any
    name, to logits [batch, outputs]. Nothing is downloaded, and no code but the library's is run.

    Args:
        inputs: in the order that `forward` takes them.
        outputs: classes or values.
        config: `model_type` and what its configuration has, for weights drawn anew:
            `{"model_type": "bert", "hidden_size": 128}`. Sizes that the data states need not be
            given: of images, their channels, and a vocabulary.
        folder: with config.json and, to begin from, weights in safetensors.
        model: the class; by the inputs where empty, `AutoModelForSequenceClassification` for ids,
            `AutoModelForImageClassification` for images, `AutoModelForAudioClassification` for
            sounds.

    Raises:
        Missing: the package is not installed.
        BadValue: neither a config nor a folder is given, or both; it has no such model; or the
            folder holds none.
    """
    values(outputs)
    if not 1 <= len(inputs) <= 3:
        message = f"it takes one to three inputs, and the data has {len(inputs)}"
        raise BadValue(message, hint="input_ids, attention_mask, token_type_ids")
    if (config is None) == (not folder):
        message = "it is made of a `config` or a `folder`, and of one of them"
        raise BadValue(message, hint="config: {model_type: bert, hidden_size: 128}")
    maker = _class(model or _usual(inputs))
    configuration = _configured(config, inputs) if config is not None else _read(folder)
    configuration.num_labels = outputs
    if any((Path(folder) / name).exists() for name in WEIGHTS if folder):
        made = _quietly(
            lambda: maker.from_pretrained(
                folder,
                config=configuration,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,
            ),
            "folder",
        )
    else:
        build = getattr(maker, "from_config", None) or maker
        made = _quietly(lambda: build(configuration), "config" if config else "folder")
    return Logits(made.float(), _names(made, inputs), inputs)


class Logits(nn.Module):
    """A model of transformers that takes tensors in order, and gives one back."""

    def __init__(self, model: nn.Module, names: tuple[str, ...], inputs: Inputs) -> None:
        super().__init__()
        self.model, self.names, self.inputs = model, names, dict(inputs)

    def forward(
        self, first: Tensor, second: Tensor | None = None, third: Tensor | None = None
    ) -> Tensor:
        """The logits, or else the first that the model answers with."""
        inputs = [one for one in (first, second, third) if one is not None]
        answer = self.model(**dict(zip(self.names, inputs, strict=True)), return_dict=True)
        logits: Tensor = answer["logits"] if "logits" in answer else answer[0]
        return logits

    def deployed(self) -> tuple[nn.Module, Mapping[str, TensorShape]]:
        """The same, its attention spelled out, which exports to plain operators."""
        choose = getattr(self.model, "set_attn_implementation", None)
        if choose is not None:
            choose("eager")
        return self, self.inputs


def _usual(inputs: Inputs) -> str:
    if any(shape.whole for shape in inputs.values()):
        return TEXT
    return IMAGE if any(len(shape.shape) == 3 for shape in inputs.values()) else SOUND


def _class(name: str) -> Any:
    package = load("transformers:__dict__", PURPOSE)
    known = [n for n in load("transformers:__all__", PURPOSE) if "For" in n or n == name]
    if name not in known and name not in package:
        raise BadValue(
            f"transformers has no class `{name}`", keys=("model",), hint=nearest(name, known)
        )
    return load(f"transformers:{name}", PURPOSE)


def _configured(config: Mapping[str, Any], inputs: Inputs) -> Any:
    """The configuration, with the data's sizes where nobody gives others."""
    kinds = load("transformers:CONFIG_MAPPING", PURPOSE)
    kind = config.get("model_type")
    if kind not in kinds:
        if not isinstance(kind, str):
            hint = "config: {model_type: bert, hidden_size: 128}"
            raise BadValue("`config` lacks its `model_type`", keys=("config",), hint=hint)
        message = f"transformers has no model type `{kind}`"
        keys = ("config", "model_type")
        raise BadValue(message, keys=keys, hint=nearest(kind, kinds.keys()))
    usual = _quietly(lambda: kinds[kind](), "config")
    sizes: dict[str, Any] = {}
    for shape in inputs.values():
        if len(shape.shape) == 3 and not shape.whole:
            square = shape.shape[1] == shape.shape[2]
            sizes["num_channels"] = shape.shape[0]
            sizes["image_size"] = shape.shape[1] if square else shape.shape[1:]
        if shape.count:
            sizes["vocab_size"] = max(shape.count, sizes.get("vocab_size", 0))
    fitting = {key: value for key, value in sizes.items() if hasattr(usual, key)}
    given = {key: value for key, value in config.items() if key != "model_type"}
    for key in given:
        if not hasattr(usual, key):
            known = [n for n in usual.to_dict() if not n.startswith("_")]
            message = f"the configuration of `{kind}` has no `{key}`"
            raise BadValue(message, keys=("config", key), hint=nearest(key, known))
    return _quietly(lambda: kinds[kind](**{**fitting, **given}), "config")


def _read(folder: str) -> Any:
    if not (Path(folder) / "config.json").is_file():
        message = f"`{folder}` has no config.json"
        raise BadValue(message, keys=("folder",), hint="a folder that `save_pretrained` wrote")
    automatic = load("transformers:AutoConfig", PURPOSE)
    read = {"local_files_only": True, "trust_remote_code": False}
    return _quietly(lambda: automatic.from_pretrained(folder, **read), "folder")


def _names(model: nn.Module, inputs: Inputs) -> tuple[str, ...]:
    """The model's own names of the inputs."""
    known = list(inspect.signature(model.forward).parameters)
    main = getattr(model, "main_input_name", known[0])
    if len(inputs) == 1:
        [name] = inputs
        return (name if name in known else str(main),)
    for name in inputs:
        if name not in known:
            message = f"the model has no input `{name}`"
            raise BadValue(message, hint=f"call it otherwise in the data; {nearest(name, known)}")
    return tuple(inputs)


def _quietly(make: Any, key: str) -> Any:
    """What is made, errors of the library told as those of a setting."""
    try:
        return make()
    except EdgeError:
        raise
    except Exception as error:
        lines = [line for line in str(error).strip().split("\n") if line]
        first = lines[0] if lines else ""
        message = f"transformers refuses this `{key}` ({type(error).__name__}: {first})"
        raise BadValue(message, keys=(key,), hint="its own documentation has the fields") from error
