"""Training: `fit` a recipe on a data set, `evaluate` a model, go on after a stop."""

from .fit import Machines, build, evaluate, fit, loader, predict, training_notes

__all__ = ["Machines", "build", "evaluate", "fit", "loader", "predict", "training_notes"]
