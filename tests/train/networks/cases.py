"""Every network at its smallest: name, inputs, outputs, settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from edgedl.train.shapes import TensorShape

Inputs = dict[str, TensorShape]
IMAGE: Inputs = {"image": TensorShape((1, 8, 8))}
SERIES: Inputs = {"x": TensorShape((3, 12))}
TEXT: Inputs = {"input_ids": TensorShape((6,), "int64", 20)}
MASKED: Inputs = {**TEXT, "attention_mask": TensorShape((6,), "int64", 2)}
PAIR: Inputs = {"user": TensorShape((), "int64", 9), "item": TensorShape((), "int64", 7)}
BERT = {
    "model_type": "bert",
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
}
EFFICIENT = "edgedl.train.networks.efficientnet"


@dataclass(frozen=True)
class Case:
    """`table` is a module's, cut to so many rows: exporting takes as long as a network is deep."""

    name: str
    inputs: Inputs
    outputs: int = 3
    settings: dict[str, Any] = field(default_factory=dict)
    table: tuple[str, int] | None = None
    exported: bool = True

    def __str__(self) -> str:
        words = [k for k, v in self.settings.items() if v is True]
        return "-".join([self.name, *words])


CASES = (
    Case("resnet8", IMAGE, settings={"width": 4}),
    Case("resnet18", IMAGE, settings={"width": 2}, table=("resnet:DEPTHS", 1)),
    Case("resnet50", IMAGE, settings={"width": 2}, table=("resnet:DEPTHS", 1)),
    Case("mobilenetv1", IMAGE, settings={"alpha": 0.1}, table=("mobilenetv1:BLOCKS", 3)),
    Case("mobilenetv2", IMAGE, settings={"alpha": 0.1}, table=("mobilenetv2:STAGES", 2)),
    Case("mobilenetv3_small", IMAGE, settings={"alpha": 0.1}, table=("mobilenetv3:SMALL", 4)),
    Case("mobilenetv3_large", IMAGE, settings={"alpha": 0.1}, table=("mobilenetv3:LARGE", 4)),
    Case("efficientnet_lite0", IMAGE, table=("efficientnet:STAGES", 2)),
    Case("ds_cnn", {"mfcc": TensorShape((10, 20))}, settings={"width": 4, "blocks": 1}),
    Case("vit", IMAGE, settings={"width": 8, "depth": 1, "heads": 2, "pool": "class"}),
    Case("unet", {"image": TensorShape((1, 10, 7))}, settings={"width": 2, "depth": 1}),
    Case("unet", IMAGE, 0, {"width": 2, "depth": 1}, exported=False),
    Case("ssd", IMAGE, settings={"width": 4, "levels": 1, "blocks": 1}),
    Case("ssd", IMAGE, settings={"width": 4, "levels": 1, "blocks": 1, "decoded": True}),
    Case("lstm", SERIES, settings={"hidden": 4, "bidirectional": True}),
    Case("gru", SERIES, settings={"hidden": 4, "layers": 2, "pool": "mean"}),
    Case("streaming_gru", SERIES, settings={"hidden": 4, "layers": 2, "chunk": 3}),
    Case("tcn", SERIES, settings={"width": 4, "levels": 2}),
    Case("mlp", SERIES, settings={"hidden": 4}),
    Case("autoencoder", SERIES, 0, {"hidden": 8, "bottleneck": 2}),
    Case("text_encoder", TEXT, settings={"width": 8, "depth": 1, "heads": 2}),
    Case("text_encoder", MASKED, 3, {"width": 8, "depth": 1, "heads": 2}, exported=False),
    Case("two_tower", PAIR, 1, {"width": 4, "hidden": 4}),
    Case("transformers", MASKED, settings={"config": BERT}),
)
