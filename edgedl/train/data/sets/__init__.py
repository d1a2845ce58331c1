"""Known data sets by name: to add one, write a file with `find`, a line here, and a test."""

from __future__ import annotations

from collections.abc import Mapping

SETS: Mapping[str, str] = {
    "fashion_mnist": "edgedl.train.data.sets.fashion_mnist:find",
    "mnist": "edgedl.train.data.sets.mnist:find",
    "spoken_digits": "edgedl.train.data.sets.spoken_digits:find",
    "har": "edgedl.train.data.sets.har:find",
    "reuters_r8": "edgedl.train.data.sets.reuters:find",
    "sentiment": "edgedl.train.data.sets.sentiment:find",
    "shuttle": "edgedl.train.data.sets.shuttle:find",
    "movielens": "edgedl.train.data.sets.movielens:find",
    "power_demand": "edgedl.train.data.sets.power_demand:find",
    "archive_series": "edgedl.train.data.sets.archive_series:find",
    "tree_boxes": "edgedl.train.data.sets.tree_boxes:find",
}
