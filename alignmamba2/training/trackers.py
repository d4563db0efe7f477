"""Trackers by name: a CSV file, TensorBoard, Weights & Biases, and whatever else Accelerate knows."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers, on_main_process

from ..recipes import Recipe
from ..storage.files import write_text


class CsvTracker(GeneralTracker):
    """CsvTracker writes history.csv: one row per epoch, one column per loss and metric."""

    name = "csv"
    requires_logging_directory = True

    def __init__(self, folder: Path):
        self.tracker = folder / "history.csv"
        super().__init__()
        self.rows: list[Mapping[str, Any]] = []

    @on_main_process
    def log(self, values: Mapping[str, Any], step: int | None = None, **options: Any) -> None:
        import pandas  # slow to import

        self.rows.append(values)
        self.tracker.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.tracker, pandas.DataFrame(self.rows).to_csv(index=False, lineterminator="\n"))


def trackers_of(names: Sequence[str], folder: Path | None) -> list[str | CsvTracker] | None:
    """Return what an `Accelerator` takes as ``log_with``; a `ValueError` names a tracker or folder that is missing."""
    installed = ["csv", *(str(tracker) for tracker in get_available_trackers())]
    for name in names:
        if name not in installed:
            why = "is not installed" if name in LOGGER_TYPE_TO_CLASS else "is unknown"
            raise ValueError(f"trackers: found {name!r}, which {why}; expected some of {', '.join(installed)}")
    if names and folder is None:
        raise ValueError(f"trackers: found {', '.join(names)} without a folder to write to; give fit a folder")
    return [CsvTracker(folder) if name == "csv" else name for name in names] or None


class Tracking:
    """Tracking is a callback that hands the rows of epochs to the trackers of an Accelerator, `history` first."""

    def __init__(self, accelerator: Accelerator, recipe: Recipe, seed: int, history: Sequence[Mapping[str, float]]):
        self.accelerator = accelerator
        tables = recipe.to_dict()
        settings = {"recipe": recipe.name, "dataset": recipe.dataset, "seed": seed}
        settings |= {f"{t}.{key}": value for t in ("data", "model", "training") for key, value in tables[t].items()}
        plain = {key: x if isinstance(x, (bool, int, float, str)) else str(x) for key, x in settings.items()}
        accelerator.init_trackers("alignmamba2", plain)
        for row in history:
            self.on_epoch(row)

    def on_epoch(self, row: Mapping[str, float]) -> None:
        self.accelerator.log(dict(row), step=int(row["epoch"]))

    def close(self) -> None:
        for tracker in self.accelerator.trackers:
            tracker.finish()
