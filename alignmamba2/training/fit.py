"""Fit and evaluate, on Lightning."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import signal
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from torch import Tensor
from torch.utils.data import BatchSampler, ConcatDataset, DataLoader, RandomSampler, SequentialSampler

from ..baselines import build_model
from ..batch import MultimodalBatch
from ..datasets import Dataset, load_dataset
from ..model import AlignMamba2
from ..recipes import Recipe
from ..storage.files import FileError, read_json, write_json
from .checkpoint import Checkpoint
from .compiler import ADD_COMPILER, no_compiler
from .loop import KeepBest, Resume, Share, Task, TrainingError, process, scores

PRECISIONS = ("32-true", "bf16-mixed")
NOTES = "training.json"


@dataclass(frozen=True)
class FitResult:
    """What `fit` leaves.

    Attributes
    ----------
    model : the best model by `monitor` on the validation split, ready to predict; with `refit`, trained anew for as
        many epochs on the training and validation splits together
    history : one mapping an epoch: "epoch", "train/loss", "train/task", "train/ot", "train/mmd", each pair's such as
        "train/mmd/audio-text", "valid/loss" and the validation metrics, such as "valid/accuracy"
    best_epoch : the epoch that the model comes from
    datasets : the splits
    recipe : what was run, overrides included
    seed : int
    folder : where model and history were written, or None
    """

    model: AlignMamba2
    history: list[dict[str, float]]
    best_epoch: int
    datasets: dict[str, Dataset]
    recipe: Recipe
    seed: int
    folder: Path | None


def fit(
    recipe: str | Path | Recipe,
    *,
    seed: int = 0,
    fast: bool = False,
    overrides: Mapping[str, Any] | None = None,
    datasets: dict[str, Dataset] | None = None,
    folder: str | Path | None = None,
    resume: bool = True,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
    devices: int | str = 1,
    nodes: int = 1,
    strategy: str = "auto",
    precision: str = "32-true",
    compile: bool = False,
) -> FitResult:
    """Train AlignMamba-2 by a recipe; choose the epoch on the validation split. The test split is not touched.

    Parameters
    ----------
    recipe : name, path of a TOML, or a `Recipe`
    seed : int
        Of weights, data order and dropout. Same seed, same machine, same number of threads: same bits.
    fast : bool
        Two epochs: to see that everything runs.
    overrides : mapping such as ``{"model.lambda_ot": 0.0}``
    datasets : splits to use instead of loading the recipe's
    folder : where to write the model, the history and the recipe; nothing is written if left out
        After each epoch all that it takes to go on is kept there too, until training is done.
    resume : go on where an earlier call with the same folder, recipe, seed and data was stopped
        The weights and metrics are, bit by bit, those of a run that was never stopped. False: start anew.
    progress : show a progress bar
    callbacks : Lightning callbacks, for those who want to watch; they do not see the refit
    devices, nodes, strategy : as of Lightning's `Trainer`: how many processes train together, on how many machines
        The recipe's batch is shared between them. Start the machines with torchrun (see CONTRIBUTING.md); on one
        machine Lightning starts the other processes.
    precision : "32-true" or "bf16-mixed"
        With the latter, matrix products are in bfloat16; the scan's state, the alignment losses, the prediction and the
        weights stay in float32.
    compile : train through `torch.compile`
        Off, for on a processor a step gains next to nothing by it (`results/README.md`); on a GPU it was not measured.
        It needs a C++ compiler, compiles for a minute or two in the first epoch, and draws dropout in another
        way: the same model, not the same bits. The model that comes back is an ordinary one.

    Raises
    ------
    TrainingError
        A loss or gradient is no finite number: epoch, step and samples are named, and what was kept of the run. Or
        every training label is of the same class.
    CheckpointError
        What the folder holds is damaged or an unfinished run of something else, named setting by setting.
    """
    if not isinstance(recipe, Recipe):
        recipe = Recipe.load(recipe, overrides)
    elif overrides:
        raise ValueError("fit: overrides go with a recipe's name or path; this recipe is already read")
    if fast:
        recipe = dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, max_epochs=2))
    machines = Machines(devices, nodes, strategy, precision, compile)
    datasets = datasets or load_dataset(recipe.dataset, **recipe.data)
    train, valid = datasets["train"], datasets["valid"]
    _check_labels(train, valid)
    run = _Run(recipe, seed, Path(folder) if folder else None, machines, progress)
    run.prepare(train, valid, resume)
    try:
        task, best = run.choose(train, valid, callbacks)
        model = run.refit(train, valid, task, best).model if recipe.training.refit else task.model
    except TrainingError as error:
        raise TrainingError(f"{error}. Lower the learning rate, or look at these samples; {run.kept()}") from error
    result = FitResult(model.cpu().eval(), task.history, best.epoch, datasets, recipe, seed, run.folder)
    if result.folder and process()[0] == 0:
        _write(result)
        run.checkpoint.remove()
    return result


@dataclass(frozen=True)
class Machines:
    """What trains together and how, in Lightning's words (see `fit`)."""

    devices: int | str = 1
    nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    compile: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:  # float16 would need its losses scaled
            raise ValueError(f"precision: found {self.precision!r}; expected one of {', '.join(PRECISIONS)}")
        if self.compile and (why := no_compiler()):
            raise ValueError(f"compile: found {why}; expected one that works. {ADD_COMPILER}, or leave compile out")

    def trainer_options(self) -> dict[str, Any]:
        """For Lightning's `Trainer`."""
        strategy = self.strategy
        if strategy in ("auto", "ddp") and (self.devices, self.nodes) != (1, 1):
            strategy = "ddp_find_unused_parameters_true"  # of one process's samples, all may lack a modality
        return {
            "devices": self.devices,
            "num_nodes": self.nodes,
            "strategy": strategy,
            "precision": self.precision,
        }

    def identity(self) -> dict[str, Any]:
        """What of it changes the weights."""
        processes = self.devices * self.nodes if isinstance(self.devices, int) else [self.devices, self.nodes]
        identity: dict[str, Any] = {"processes": processes}
        identity |= {} if self.precision == "32-true" else {"precision": self.precision}
        return identity | ({"compile": True} if self.compile else {})


@dataclass
class _Run:
    """One call of `fit`: what is trained and how, and the state to go on from."""

    recipe: Recipe
    seed: int
    folder: Path | None
    machines: Machines
    progress: bool
    checkpoint: Checkpoint | None = None
    state: Mapping[str, Any] | None = None

    def prepare(self, train: Dataset, valid: Dataset, resume: bool) -> None:
        """Find out whether the folder holds an unfinished run, and that it is this one."""
        if self.folder is None:
            return
        digest = hashlib.sha256()
        for m, (mean, sd) in train.statistics().items():
            digest.update(m.encode() + mean.numpy().tobytes() + sd.numpy().tobytes())
        identity = {
            "recipe": self.recipe.to_dict(),
            "seed": self.seed,
            "data": {"train": len(train), "valid": len(valid), "statistics": digest.hexdigest()[:16]},
            **self.machines.identity(),
        }
        self.checkpoint = Checkpoint(self.folder, identity)
        self.state = self.checkpoint.read() if resume else None

    def choose(self, train: Dataset, valid: Dataset, callbacks: Sequence[Callback]) -> tuple[Task, KeepBest]:
        """Train, and keep the weights of the epoch that is best on the validation split."""
        c = self.recipe.training
        best, state = KeepBest(c.monitor, c.patience), self.state
        if state is not None:
            best.load_state_dict(state["best"])
        if state is not None and (state["refit"] or state["epochs"] >= c.max_epochs or best.finished(state["epochs"])):
            task = self._task(train, valid)
            task.history = state["history"]
        else:
            kept = {"refit": False}
            task = self._train(train, c.max_epochs, kept, best, valid, callbacks, state)
        task.model.load_state_dict(best.weights)
        return task, best

    def refit(self, train: Dataset, valid: Dataset, chosen: Task, best: KeepBest) -> Task:
        """Train anew on both splits, for as many epochs as were best."""
        whole = dataclasses.replace(train, split="train+valid", samples=ConcatDataset([train.samples, valid.samples]))
        state = self.state if self.state is not None and self.state["refit"] else None
        epochs, kept = best.epoch + 1, {"refit": True, "history": chosen.history}
        return self._train(whole, epochs, kept, best, state=state)

    def kept(self) -> str:
        """What is left of the run after it failed."""
        if self.checkpoint is None or not self.checkpoint.path.is_file():
            return "nothing was kept: no epoch was finished, or no folder was given"
        return f"{self.checkpoint.path} holds the run as it was after the last good epoch"

    def _task(self, train: Dataset, valid: Dataset | None) -> Task:
        samples = len(train), len(valid or ())
        return Task(build(self.recipe, train), self.recipe.training, samples, self.machines.compile)

    def _train(
        self,
        train: Dataset,
        epochs: int,
        kept: Mapping[str, Any],
        best: KeepBest,
        valid: Dataset | None = None,
        callbacks: Sequence[Callback] = (),
        state: Mapping[str, Any] | None = None,
    ) -> Task:
        """Train a new model from the seed, or go on from a state; `kept` goes into the checkpoint with the rest.

        The learning rate's course is the recipe's, however many epochs of it run.
        """
        L.seed_everything(self.seed, workers=True, verbose=False)
        task, size = self._task(train, valid), self.recipe.training.batch_size
        order = torch.Generator().manual_seed(self.seed)
        callbacks = [*([best] if valid else []), *callbacks]
        if self.checkpoint is not None:

            def write(now: Mapping[str, Any]) -> None:
                self.checkpoint.write({**now, "best": best.state_dict(), **kept})

            callbacks.append(Resume(write, order, state))
        if self.progress:
            callbacks.append(TQDMProgressBar(leave=False))
        interrupt = signal.getsignal(signal.SIGINT)
        with _quiet():
            trainer = L.Trainer(
                max_epochs=epochs,
                accelerator="auto",
                **self.machines.trainer_options(),
                use_distributed_sampler=False,  # see loop.Share
                callbacks=callbacks,
                gradient_clip_val=self.recipe.training.grad_clip,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=self.progress,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                log_every_n_steps=1,
            )
            try:
                trainer.fit(task, loader(train, size, order, share=True), valid and loader(valid, size, share=True))
            except SystemExit as error:  # what Lightning makes of Ctrl-C, which it lets nobody hear from then on
                if not isinstance(error.__context__, KeyboardInterrupt):
                    raise
                signal.signal(signal.SIGINT, interrupt)
                raise KeyboardInterrupt from None
        return task


def _check_labels(train: Dataset, valid: Dataset) -> None:
    """Classes can only be told apart where there are two."""
    for dataset in (train, valid) if train.task == "classification" else ():
        labels = [x for x in dataset.labels if x is not None]
        found = torch.cat([torch.as_tensor(x).reshape(-1) for x in labels]).unique().tolist() if labels else []
        if len(found) > 1:
            continue
        what = f"{dataset.name}, split {dataset.split!r}: every label of its {len(dataset)} samples is {found}"
        if dataset is train:
            raise TrainingError(f"{what}; expected at least two classes of {dataset.n_classes} to learn from")
        warnings.warn(f"{what}; the best epoch is chosen on that one class alone", stacklevel=3)


def build(recipe: Recipe, train: Dataset) -> AlignMamba2:
    """The recipe's model for this data set, standardising features by the training split's statistics."""
    fitting = {"modalities": train.modalities, "task": train.task, "n_classes": train.n_classes}
    model = build_model({**fitting, "readout": train.readout, **recipe.model})
    model.set_statistics(train.statistics())
    return model


def loader(
    dataset: Dataset, batch_size: int, shuffle: torch.Generator | None = None, share: bool = False
) -> DataLoader:
    """Batches of a data set, in a random order if a generator is given; with `share`, this process's part of each."""
    order = SequentialSampler(dataset) if shuffle is None else RandomSampler(dataset, generator=shuffle)
    batches = BatchSampler(order, batch_size, drop_last=False)
    return DataLoader(
        dataset,
        batch_sampler=Share(batches) if share else batches,
        generator=shuffle,
        collate_fn=MultimodalBatch.from_samples,
        pin_memory=torch.cuda.is_available(),
    )


@torch.no_grad()
def predict(model: AlignMamba2, dataset: Dataset, batch_size: int = 64) -> tuple[Tensor, Tensor]:
    """Predictions and labels (N,), one a sample or, with one label a step, one a step."""
    model.eval()
    device = next(model.parameters()).device
    predictions, labels = [], []
    for batch in loader(dataset, batch_size):
        output = model(batch.to(device))
        known = ... if batch.label_mask is None else batch.label_mask
        predictions.append(output.prediction.cpu()[known])
        labels.append(batch.labels[known])
    return torch.cat(predictions), torch.cat(labels)


def evaluate(model: AlignMamba2, dataset: Dataset) -> dict[str, float | None]:
    """The field's metrics of a model on one split: accuracy and F1, and more for regression (see `metrics`)."""
    return scores(*predict(model, dataset), model.config)


def training_notes(folder: str | Path) -> dict[str, Any]:
    """What `fit` wrote beside a model: "recipe", "seed", "best_epoch", and "history", one mapping an epoch.

    Raises
    ------
    FileNotFoundError
        There is none, so nothing says which data the model saw.
    FileError
        It is damaged, or a field is missing.
    """
    path = Path(folder) / NOTES
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: not found, so nothing says which data the model saw; expected a folder that train wrote"
        )
    notes = {"history": [], **read_json(path, sealed=False)}
    for field in ("seed", "best_epoch", "recipe", "recipe.name", "recipe.dataset", "recipe.data"):
        found: Any = notes
        for key in field.split("."):
            found = found.get(key) if isinstance(found, Mapping) else None
        if found is None:
            raise FileError(f"{path}: has no field {field!r}; expected what train writes. Train the model again")
    return notes


class _quiet(warnings.catch_warnings):
    """Lightning's hints on workers and logging do not apply to data that lies in memory."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.filterwarnings("ignore", module="lightning")
        self._logger = logging.getLogger("lightning.pytorch")
        self._level = self._logger.level
        self._logger.setLevel(logging.ERROR)

    def __exit__(self, *exc: object) -> None:
        self._logger.setLevel(self._level)
        super().__exit__(*exc)


def _write(result: FitResult) -> None:
    result.model.save_pretrained(result.folder)
    notes = {
        "recipe": result.recipe.to_dict(),
        "seed": result.seed,
        "best_epoch": result.best_epoch,
        "history": result.history,
    }
    write_json(result.folder / NOTES, notes)
