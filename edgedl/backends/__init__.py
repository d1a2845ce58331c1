"""The build side of each engine: a file an engine, its line in `edgedl.core.engines`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from copy import copy
from typing import Any, Protocol

from edgedl.core.engines import LISTED
from edgedl.core.registry import resolve
from edgedl.core.target import Scheme, Target
from edgedl.runtime.payload import Payload

BACKENDS = {name: one.backend for name, one in LISTED.items()}


class Backend(Protocol):
    """What a backend's file offers; `edgedl.backends.as_onnx.AsOnnx` is one, for any engine that
    opens ONNX files.

    Attributes:
        engine: its name in `edgedl.core.engines`.
        scheme: the scheme that its int8 graphs are written in, one of `edgedl.core.target.SCHEMES`;
            of an engine that computes nothing in int8, one without `operators`.
        schemes: others that are compared with it on the machine, by speed and by their answers.
        typed: whether the precision stands in the graph, in types and casts, and settings do not
            change it.
        other_kernels: operators for which the engine has kernels other than it takes by itself;
            `settings["other_kernels"]` names the nodes that take them.
    """

    engine: str
    scheme: Scheme
    schemes: tuple[Scheme, ...]
    other_kernels: frozenset[str]
    typed: bool

    def check(self, target: Target) -> None:
        """Say whether this machine can build for the target.

        Raises:
            Unsupported: it cannot, and why. Missing: the engine is not installed.
        """

    def floats(self) -> tuple[str, ...]:
        """Float precisions worth trying here, `float32` first."""

    def settings(self, precision: str) -> Mapping[str, Any]:
        """How the engine is to open a model in `int8`, or in one of `floats()`."""

    def rests(self) -> Mapping[str, Mapping[str, Any]]:
        """Other settings for int8 models, by label: what their float operators compute in."""

    def variants(
        self, settings: Mapping[str, Any], kinds: Collection[str]
    ) -> Mapping[str, Mapping[str, Any]]:
        """Other settings worth timing where the engine runs operators of these kinds, by label."""

    def compile(
        self, data: bytes, precision: str, settings: Mapping[str, Any] | None = None
    ) -> Payload:
        """The payload that opens this ONNX file in these settings, those of the precision where
        None, opened once to prove it.

        Raises:
            EngineFailed: the engine refuses the model.
        """


def in_scheme(built: Backend, scheme: Scheme) -> Backend:
    """The same backend, which writes its int8 graphs in another scheme."""
    if built.scheme == scheme:
        return built
    other = copy(built)
    other.scheme = scheme
    return other


def backend(name: str) -> Backend:
    """The backend of this engine.

    Raises:
        BadOption: unknown. Missing: the engine is not installed; the hint says how to install it.
    """
    found: Backend = resolve(BACKENDS, name, kind="backend", group="edgedl.backends")
    return found
