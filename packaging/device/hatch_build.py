"""Fills the wheel with the files that `tree` says, of the engines that `EDGEDL_ENGINES` names."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ENGINES = "onnxruntime,openvino"


class Tree(BuildHookInterface[Any]):
    """The build's files, in a folder that goes when the build is done."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the files of the engines that are asked for."""
        spec = importlib.util.spec_from_file_location("tree", Path(self.root) / "tree.py")
        assert spec is not None
        assert spec.loader is not None
        tree = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(tree)
        chosen = [name for name in os.environ.get("EDGEDL_ENGINES", ENGINES).split(",") if name]
        self.folder = tempfile.TemporaryDirectory()
        for path in tree.copy(Path(self.folder.name), chosen):
            build_data["force_include"][str(path)] = str(path.relative_to(self.folder.name))

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove them from where they were written."""
        self.folder.cleanup()
