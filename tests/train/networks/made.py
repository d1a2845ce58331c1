"""Networks of the cases, their long tables cut."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import nn

from edgedl.train.networks import build
from tests.train.networks.cases import Case


def made(case: Case, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    if case.table is not None:
        path, rows = case.table
        module, name = path.split(":")
        owner = importlib.import_module(f"edgedl.train.networks.{module}")
        table = getattr(owner, name)
        if isinstance(table, dict):
            table = {key: (rows,) * len(row) for key, row in table.items()}
        monkeypatch.setattr(owner, name, table if isinstance(table, dict) else table[:rows])
    torch.manual_seed(0)
    return build(case.name, case.inputs, case.outputs, case.settings)
