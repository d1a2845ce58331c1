"""Bundles as a service: the Open Inference Protocol, version 2, over HTTP."""

from __future__ import annotations
