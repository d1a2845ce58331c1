"""What each operator of torch does to the labels of channels; what is not here keeps them all."""

# ruff: noqa: ARG001 (every rule takes the same arguments)
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from edgedl.train.shrink.labels import Labels
from edgedl.train.shrink.rules_shapes import SHAPES, Given, Rule, fixed

if TYPE_CHECKING:
    from edgedl.train.shrink.trace import Trace


def is_pointwise(func: Any, plain: str) -> bool:
    """Whether an operator works on each value by itself."""
    return torch.Tag.pointwise in func.tags or plain in POINTWISE


def _pointwise(trace: Trace, why: str, given: Given, out: Any) -> list[Labels] | None:
    if not isinstance(out, Tensor):
        return None
    made = [fixed(length) for length in out.shape]
    known = [False] * out.dim()
    for tensor in (one for one in given.values() if isinstance(one, Tensor)):
        skip = out.dim() - tensor.dim()
        for axis, labels in enumerate(trace.of(tensor), skip):
            if len(labels) != len(made[axis]):
                continue  # one value for all
            made[axis] = trace.atoms.tie(made[axis], labels, why) if known[axis] else labels
            known[axis] = True
    return [tuple(made)]


def _same(trace: Trace, why: str, given: Given, out: Any) -> list[Labels]:
    return [trace.of(given["self"])]


def _convolution(trace: Trace, why: str, given: Given, out: Any) -> list[Labels]:
    atoms, groups, turned = trace.atoms, given["groups"], given["transposed"]
    image, weight = trace.of(given["input"]), trace.of(given["weight"])
    channels, axis_out, axis_in = image[1], int(turned), 1 - int(turned)
    if groups == 1:
        atoms.tie(channels, weight[axis_in], why)
        made = weight[axis_out]
    elif groups == len(channels):
        many = out.shape[1] // groups
        if turned:
            atoms.freeze(weight[1], why)
            made = np.repeat(atoms.tie(channels, weight[0], why), many)
        else:
            made = atoms.tie(np.repeat(channels, many), weight[0], why)
    else:
        # As many channels of each group stay, the first of all for the first.
        inside = channels.reshape(groups, -1).T
        if turned:
            inside = np.concatenate([inside, weight[0].reshape(groups, -1).T], 1)
            atoms.tie_rows(inside, why)
            made = np.tile(weight[1], groups)
        else:
            atoms.tie(atoms.tie_rows(inside, why), weight[1], why)
            made = np.tile(atoms.tie_rows(weight[0].reshape(groups, -1).T, why), groups)
    if given["bias"] is not None:
        made = atoms.tie(made, trace.of(given["bias"])[0], why)
    return [(image[0], made, *map(fixed, out.shape[2:]))]


def _product(trace: Trace, why: str, one: Labels, other: Labels) -> Labels:
    trace.atoms.tie(one[-1], other[-2], why)
    return (*one[:-1], other[-1])


def _mm(trace: Trace, why: str, given: Given, out: Any) -> list[Labels]:
    return [_product(trace, why, trace.of(given["self"]), trace.of(given["mat2"]))]


def _addmm(trace: Trace, why: str, given: Given, out: Any) -> list[Labels]:
    made = _product(trace, why, trace.of(given["mat1"]), trace.of(given["mat2"]))
    added = trace.of(given["self"])
    for labels, axis in zip(reversed(added), reversed(range(len(made))), strict=False):
        if len(labels) == len(made[axis]):
            trace.atoms.tie(made[axis], labels, why)
    return [made]


def _bmm(trace: Trace, why: str, given: Given, out: Any) -> list[Labels]:
    one, other = trace.of(given["self"]), trace.of(given["mat2"])
    batch = trace.atoms.tie(one[0], other[0], why)
    return [(batch, *_product(trace, why, one, other)[1:])]


def _attention(trace: Trace, why: str, given: Given, out: Any) -> list[Labels] | None:
    query, key, value = (trace.of(given[name]) for name in ("query", "key", "value"))
    if len(query) != 4 or len(query[1]) != len(key[1]):
        return None
    heads = trace.atoms.tie(trace.atoms.tie(query[1], key[1], why), value[1], why)
    for labels in (query[3], key[3]):
        trace.atoms.freeze(labels, why)  # scores are scaled by how many there are
    whole = (query[0], heads, query[2], value[3])
    made: list[Labels] = [whole]
    for one in out[1:] if isinstance(out, (tuple, list)) else ():
        if isinstance(one, Tensor):  # sums and weights of each head
            heads_too = one.dim() > 2 and one.shape[1] == len(heads)
            rest = map(fixed, one.shape[2 if heads_too else 1 :])
            made.append((fixed(one.shape[0]), *([heads] if heads_too else []), *rest))
    return made


def _normal(trace: Trace, why: str, given: Given, out: Any) -> list[Labels]:
    """Batch normalisation: each channel by itself."""
    labels = list(trace.of(given["input"]))
    for name in ("weight", "bias", "running_mean", "running_var"):
        if isinstance(given.get(name), Tensor):
            labels[1] = trace.atoms.tie(labels[1], trace.of(given[name])[0], why)
    width = len(labels[1])  # statistics of each channel, where they are taken of these very values
    rest = [one for one in out[1:] if isinstance(one, Tensor)]
    made = [(labels[1],) if one.shape == (width,) else tuple(map(fixed, one.shape)) for one in rest]
    return [tuple(labels), *made]


def _layer_norm(trace: Trace, why: str, given: Given, out: Any) -> list[Labels]:
    labels = list(trace.of(given["input"]))
    count = len(given["normalized_shape"])
    for axis in range(-count, 0):
        held = [one for one in (given.get("weight"), given.get("bias")) if one is not None]
        if not held or count > 1:
            trace.atoms.freeze(labels[axis], why)
        for tensor in held:
            labels[axis] = trace.atoms.tie(labels[axis], trace.of(tensor)[axis], why)
    rest = out[1:] if isinstance(out, (tuple, list)) else ()
    return [tuple(labels), *(tuple(map(fixed, one.shape)) for one in rest)]


def _group_norm(trace: Trace, why: str, given: Given, out: Any) -> list[Labels]:
    labels = list(trace.of(given["input"]))
    for name in ("weight", "bias"):
        if isinstance(given.get(name), Tensor):
            labels[1] = trace.atoms.tie(labels[1], trace.of(given[name])[0], why)
    groups = given["group"]
    labels[1] = np.tile(trace.atoms.tie_rows(labels[1].reshape(groups, -1).T, why), groups)
    if not isinstance(given.get("weight"), Tensor):
        trace.atoms.freeze(labels[1], why)
    return [tuple(labels), *(tuple(map(fixed, one.shape)) for one in out[1:])]


def _reduce(trace: Trace, why: str, given: Given, out: Any) -> list[Labels]:
    labels, dims = trace.of(given["self"]), given.get("dim")
    count = len(labels)
    chosen = range(count) if dims is None or dims == [] else np.atleast_1d(np.array(dims)) % count
    gone = {int(axis) for axis in chosen}
    kept = [fixed(1) if axis in gone else one for axis, one in enumerate(labels)]
    if not given.get("keepdim"):
        kept = [one for axis, one in enumerate(kept) if axis not in gone]
    return [tuple(kept)] * (1 if isinstance(out, Tensor) else len(out))


def _softmax(trace: Trace, why: str, given: Given, out: Any) -> list[Labels]:
    labels = trace.of(given["self"])
    trace.atoms.freeze(labels[given["dim"]], why)
    return [labels]


def _glu(trace: Trace, why: str, given: Given, out: Any) -> list[Labels]:
    labels = list(trace.of(given["self"]))
    axis = given["dim"] % len(labels)
    labels[axis] = trace.atoms.tie_rows(labels[axis].reshape(2, -1).T, why)
    return [tuple(labels)]


def _spatial(trace: Trace, why: str, given: Given, out: Any) -> list[Labels]:
    """Pooling and resizing: batch and channels stay."""
    labels = trace.of(given.get("self", given.get("input")))
    lead = 2 if len(labels) > 2 else len(labels) - 1
    for axis in labels[lead:]:
        trace.atoms.freeze(axis, why)
    results: Sequence[Tensor] = [out] if isinstance(out, Tensor) else out
    return [(*labels[:lead], *map(fixed, one.shape[lead:])) for one in results]


def _embedding(trace: Trace, why: str, given: Given, out: Any) -> list[Labels]:
    rows, width = trace.of(given["weight"])
    trace.atoms.freeze(rows, why)
    return [(*trace.of(given["indices"]), width)]


def _prelu(trace: Trace, why: str, given: Given, out: Any) -> list[Labels]:
    labels = list(trace.of(given["self"]))
    slope = trace.of(given["weight"])
    for axis, one in enumerate(slope):
        if len(one) > 1:
            place = axis if len(slope) > 1 else 1
            labels[place] = trace.atoms.tie(labels[place], one, why)
    return [tuple(labels)]


def _copy(trace: Trace, why: str, given: Given, out: Any) -> list[Labels]:
    target, source = trace.of(given["self"]), trace.of(given["src"])
    skip = len(target) - len(source)
    for axis, labels in enumerate(source, skip):
        if len(labels) == len(target[axis]):
            trace.atoms.tie(target[axis], labels, why)
    return [target]


POINTWISE = {
    "hardswish", "hardtanh", "relu6", "dropout", "native_dropout", "clone", "detach", "alias",
    "_to_copy", "contiguous", "lift_fresh", "silu", "mish", "elu", "leaky_relu", "celu", "softplus",
    "hardshrink", "logical_and", "logical_or", "logical_not",
}  # fmt: skip
REDUCE = ("mean", "sum", "amax", "amin", "max", "min", "var", "std", "linalg_vector_norm", "norm",
          "any", "all", "logsumexp", "var_mean", "prod")  # fmt: skip
SPATIAL = (
    "max_pool1d", "max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool1d", "avg_pool2d",
    "avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d",
    "upsample_nearest1d", "upsample_nearest2d", "upsample_bilinear2d", "upsample_linear1d",
    "upsample_bicubic2d", "_upsample_bilinear2d_aa", "reflection_pad1d", "reflection_pad2d",
    "replication_pad1d", "replication_pad2d",
)  # fmt: skip
RULES: Mapping[str, Rule] = {
    "pointwise": _pointwise,
    "convolution": _convolution,
    "mm": _mm, "addmm": _addmm, "bmm": _bmm,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_attention_math": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_flash_attention": _attention,
    "native_batch_norm": _normal, "_native_batch_norm_legit_no_training": _normal,
    "cudnn_batch_norm": _normal,
    "native_layer_norm": _layer_norm, "_fused_rms_norm": _layer_norm,
    "native_group_norm": _group_norm,
    **dict.fromkeys(REDUCE, _reduce),
    "_softmax": _softmax, "_log_softmax": _softmax, "cumsum": _softmax,
    "glu": _glu,
    **dict.fromkeys(SPATIAL, _spatial),
    "embedding": _embedding,
    "_prelu_kernel": _prelu, "prelu": _prelu,
    "copy_": _copy,
    "zeros_like": _same, "ones_like": _same, "full_like": _same, "empty_like": _same,
    "zero_": _same, "fill_": _same,
    **SHAPES,
}  # fmt: skip
