"""Training: `fit` a recipe on a data set, `evaluate` a model, go on after a stop."""

import importlib

# Imported on first use: `doctor`, which asks for a compiler alone, needs no trainer.
_HOME = {
    "FitResult": "fitting",
    "Machines": "machines",
    "TrainingError": "loop",
    "build": "fitting",
    "evaluate": "evaluation",
    "fit": "fitting",
    "loader": "batches",
    "predict": "evaluation",
    "training_notes": "notes",
}

__all__ = list(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
