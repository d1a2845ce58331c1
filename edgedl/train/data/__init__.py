"""Data for training: raw input to three disjoint groups of samples, without torch."""

from __future__ import annotations

from edgedl.train.data.dataset import Dataset
from edgedl.train.data.leaks import class_weights
from edgedl.train.data.load import load
from edgedl.train.data.sets import SETS
from edgedl.train.data.settings import Data, Vocabulary

__all__ = ["SETS", "Data", "Dataset", "Vocabulary", "class_weights", "load"]
