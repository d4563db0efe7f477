"""Panels to play with: ipywidgets around a figure. Each has `.fig`, `.controls`, `.update()` and `.words`."""

from __future__ import annotations

import importlib

# Where each panel lives. Imported on first use: a chapter shows one or two.
_HOME = {
    "ComparisonExplorer": "comparison",
    "DataExplorer": "data",
    "DiscrepancyExplorer": "discrepancy",
    "EmbeddingExplorer": "embedding",
    "Explorer": "panel",
    "RoutingExplorer": "routing",
    "SampleExplorer": "sample",
    "ScalingExplorer": "scaling",
    "ScanExplorer": "scan",
    "TrainingMonitor": "training",
    "TransportExplorer": "transport",
}

__all__ = [*_HOME]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
