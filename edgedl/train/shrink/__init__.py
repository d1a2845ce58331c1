"""Steps that shrink a network between training and export, each followed by training."""

from __future__ import annotations

from collections.abc import Mapping

# What a recipe may name under `shrink:`; a step is one file, one line here and one test file.
STEPS: Mapping[str, str] = {
    "distil": "edgedl.train.shrink.distil:Distil",
    "prune": "edgedl.train.shrink.prune:Prune",
    "low_rank": "edgedl.train.shrink.low_rank:LowRank",
    "sparsity": "edgedl.train.shrink.sparsity:Sparsity",
    "cluster": "edgedl.train.shrink.cluster:Cluster",
}
