"""Fit a recipe on a data set: what is trained, what is kept on the way, what is written at the end."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor
from torch.utils.data import ConcatDataset

from ..baselines import build_model, load_model
from ..datasets import Dataset, load_dataset
from ..datasets.fetch import data_root
from ..model import FusionModel
from ..model.config import STEPS
from ..recipes import OWN, Recipe, read
from ..storage.files import json_digest
from ..tasks import TASKS
from .best import Best
from .checkpoint import Checkpoint, restoring
from .kept_states import content_hash, prepared
from .loop import Loop, TrainingError
from .machines import Machines, process
from .notes import FILE as NOTES
from .notes import write_notes
from .trackers import Tracking, trackers_of

EVENTS = ("on_start", "on_step", "on_epoch")


@dataclass(frozen=True)
class FitResult:
    """FitResult is what `fit` leaves.

    Attributes
    ----------
    model : the best model by `monitor` on the validation split, ready to predict; with `refit`, trained anew for as
        many epochs on the training and validation splits together, or from the start on both if `monitor` is "epoch"
    history : one mapping per epoch: "epoch", "train/loss", "train/task", "train/ot", "train/mmd", each pair's such as
        "train/mmd/audio-text", "train/share/ot" and "train/share/mmd" (how large the gradient of a weighted alignment
        loss was beside the task's, on the tokens that are aligned), "valid/loss" and the validation metrics, such as
        "valid/accuracy"; and, as they are in prediction, on evenly chosen batches of the validation split, "valid/ot",
        "valid/mmd" and each pair's. The first epoch's row has these of the untrained model too: "untrained/ot", …
    best_epoch : the epoch that the model comes from
    datasets : the splits
    recipe : the recipe as run, overrides included
    seed : int
    folder : the folder of model and history, or None
    """

    model: FusionModel
    history: list[dict[str, float]]
    best_epoch: int
    datasets: dict[str, Dataset]
    recipe: Recipe
    seed: int
    folder: Path | None


def fit(
    recipe: str | Path | Recipe | Mapping[str, Dataset],
    *,
    seed: int = 0,
    fast: bool = False,
    overrides: Mapping[str, Any] | None = None,
    datasets: dict[str, Dataset] | None = None,
    folder: str | Path | None = None,
    resume: bool = True,
    progress: bool = True,
    callbacks: Sequence[Any] = (),
    trackers: Sequence[str] = (),
    accelerator: str = "auto",
    devices: int | str = 1,
    precision: str | None = None,
    accumulate: int = 1,
    num_workers: int = 0,
    compile: bool = False,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    metrics: Mapping[str, Callable[[Tensor, Tensor], Any]] | None = None,
    keep_device: bool = False,
) -> FitResult:
    """Train AlignMamba-2 by a recipe; choose the epoch on the validation split. The test split is not touched.

    Parameters
    ----------
    recipe : name, path of a TOML, or a `Recipe`; or splits of own data, for the recipe "own", which is told then
    seed : int, of weights, data order and dropout; same machine and number of threads: same bits
    fast : two epochs, to see that everything runs
    overrides : mapping such as ``{"model.lambda_ot": 0.0}``
    datasets : splits to use instead of loading the recipe's
    folder : folder of the model, the history and the recipe; nothing is written if left out
        After each epoch all that it takes to go on is kept there too, until training is done.
    resume : go on where an earlier call with the same folder, recipe, seed and data was stopped
        The weights and metrics are, bit by bit, those of a run that was never stopped. False: start anew.
    progress : show a progress bar
    callbacks : objects that have some of the methods ``on_start(model, epochs)``, ``on_step(row)``, ``on_epoch(row)``
        The first is called once the model is built. A step's row has "epoch", "step", and the loss and its parts over
        this process's samples; an epoch's row is one of `FitResult.history`. The refit calls none of them.
    trackers : names among "csv" (history.csv in the folder), "tensorboard", "wandb" and the others of Accelerate
    accelerator : "cpu", "gpu", "mps", or "auto" for the fastest of them that this machine has
    devices : number of processes on this machine that share each of the recipe's batches; "auto": one per GPU
        `fit` runs this program again for each of the others. Under torchrun or `accelerate launch`, theirs counts.
    precision : "32-true", or "bf16-mixed" for matrix products in bfloat16; default the recipe's
        The scan's state, the alignment losses, the prediction and the weights stay in float32.
    accumulate : number of parts that each batch is taken in: the same step, up to rounding, in less memory
    num_workers : number of processes that read ahead; 0: none, for data that lies in memory
    compile : train through `torch.compile`
        It takes a C++ compiler and a minute or two, draws dropout in another way (not the same bits), and gains next to
        nothing on a processor (`results/README.md`).
    loss, metrics : functions of your own, in place of the task's loss and beside its metrics (see `tasks.Task`)
        Metrics, as "valid/NAME", stand in the history and may be the recipe's `monitor`: more is better, unless a
        metric of torchmetrics says otherwise, or the name ends in "loss". Unfinished runs are known by the loss's name.
    keep_device : leave the model on the device that trained it, to which batches then go; else it is moved to the CPU

    Raises
    ------
    TrainingError
        A loss or gradient is no finite number: epoch, step and samples are named, and what was kept of the run. Or
        every training label is of the same class, or none is known.
    CheckpointError
        What the folder holds is damaged or an unfinished run of something else, named setting by setting.
    """
    if isinstance(recipe, Mapping):
        datasets, recipe = dict(recipe), _own_recipe(overrides, progress)
    elif not isinstance(recipe, Recipe):
        recipe = Recipe.load(recipe, overrides)
    elif overrides:
        raise ValueError("fit: overrides go with a recipe's name or path; this recipe is already read")
    if fast:
        recipe = dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, max_epochs=2))
    for callback in callbacks:
        if not any(hasattr(callback, event) for event in EVENTS):
            raise ValueError(f"callbacks: found {callback!r}; expected an object with some of {', '.join(EVENTS)}")
    precision = precision or recipe.training.precision
    machines = Machines(accelerator, devices, precision, accumulate, num_workers, compile)
    folder = Path(folder) if folder else None
    log_with = trackers_of(trackers, folder)
    datasets = datasets or load_dataset(recipe.dataset, **recipe.data)
    train, valid = _checked(datasets)
    checkpoint = Checkpoint(folder, _identity(recipe, seed, machines, train, valid, loss)) if folder else None
    state = checkpoint.read() if checkpoint and resume else None
    best = Best(recipe.training.monitor, recipe.training.patience, metrics)
    if state is not None:
        with restoring():
            best.load_state_dict(state["best"], state["history"])
    start = trained_start(recipe, progress)
    started = machines.start(log_with=log_with, project_dir=folder)
    run = _Run(recipe, seed, machines, started, best, checkpoint, state, progress, start, loss, metrics or {})
    try:
        with closing(Tracking(started, recipe, seed, best.history)) as tracking:
            model = run.train(train, valid, (*callbacks, tracking))
    except TrainingError as error:
        raise TrainingError(f"{error}. Lower the learning rate, or look at these samples; {run.kept()}") from error
    model = model.eval() if keep_device else model.cpu().eval()
    result = FitResult(model, best.history, best.epoch, datasets, recipe, seed, folder)
    if folder and process()[0] == 0:
        model.save_pretrained(folder)
        write_notes(folder, recipe.to_dict(), seed, best.epoch, best.history)
        checkpoint.remove()
    return result


def _own_recipe(overrides: Mapping[str, Any] | None, progress: bool) -> Recipe:
    """The recipe of own data; its settings are printed with the progress."""
    recipe = Recipe.load(OWN, overrides)
    settings = {**recipe.model, **{key: getattr(recipe.training, key) for key in read(OWN)["training"]}}
    if progress:
        told = ", ".join(f"{key} = {value}" for key, value in settings.items())
        print(f"no recipe given, so {OWN!r}: {told}; encoders are frozen unless overrides say model.encoders")
    return recipe


@dataclass
class _Run:
    """One call of `fit`: a loop that finds the best epoch and, with `refit`, one on both splits for as long."""

    recipe: Recipe
    seed: int
    machines: Machines
    accelerator: Accelerator
    best: Best
    checkpoint: Checkpoint | None
    state: Mapping[str, Any] | None
    progress: bool
    start: Path | None
    loss: Callable[[Tensor, Tensor], Tensor] | None
    metrics: Mapping[str, Callable[[Tensor, Tensor], Any]]

    def train(self, train: Dataset, valid: Dataset, callbacks: Sequence[Any]) -> FusionModel:
        """Return the model of the best epoch, or of the refit; go on from the state if there is one."""
        config, model = self.recipe.training, None
        direct = config.refit and config.monitor == "epoch"  # validation would choose nothing
        if not direct and not (self.state and self.state["refit"]):
            model = self._train(train, valid, config.max_epochs, callbacks)
            model.load_state_dict(self.best.weights)
        if config.refit:
            samples = ConcatDataset([train.samples, valid.samples])
            whole = dataclasses.replace(train, split="train+valid", samples=samples)
            epochs = config.max_epochs if direct else self.best.epoch + 1
            model = self._train(whole, None, epochs, callbacks if direct else ())
        metrics, data = dict(*self.best.history[self.best.epoch :][:1]), {train.protocol: dict(train.hashes)}
        model.card = {"recipe": self.recipe.to_dict(), "metrics": metrics, "data": data}
        return model

    def _train(self, train: Dataset, valid: Dataset | None, epochs: int, callbacks: Sequence[Any]) -> FusionModel:
        refit = valid is None
        set_seed(self.seed)
        config, model = self.recipe.training, build(self.recipe, train)
        model.task.own_loss, model.task.own_metrics = self.loss, self.metrics
        if self.start:
            _start_encoders(model, load_model(self.start))
        train = prepared(train, model, config.augment, self.progress)
        if frozen := [m for m, encoder in model.encode.items() if encoder.config.train == 0]:
            model.set_statistics(train.only(*frozen).statistics())
        loop = Loop(
            model,
            config,
            epochs,
            train,
            prepared(valid, model, progress=self.progress) if valid else None,
            self.best,
            self.machines,
            self.accelerator,
            seed=self.seed,
            callbacks=callbacks,
            save=functools.partial(self._save, refit) if self.checkpoint else None,
            progress=self.progress,
        )
        if self.state and self.state["refit"] == refit:
            with restoring():
                loop.load_state_dict(self.state)
        loop.run()
        return loop.model

    def _save(self, refit: bool, state: Mapping[str, Any]) -> None:
        if process()[0] == 0:
            best, history = self.best.state_dict(), self.best.history
            self.checkpoint.write({**state, "best": best, "history": history, "refit": refit})

    def kept(self) -> str:
        """Say what is left of the run after it failed."""
        if self.checkpoint is None or not self.checkpoint.path.is_file():
            return "nothing was kept: no epoch was finished, or no folder was given"
        return f"{self.checkpoint.path} holds the run as it was after the last good epoch"


def trained_start(recipe: Recipe, progress: bool = True) -> Path | None:
    """Return the folder of the model that `training.start` names, after training it if need be; None without one."""
    if not recipe.training.start:
        return None
    first = Recipe.load(recipe.training.start)
    digest = json_digest([first.to_dict(), version("alignmamba2")])
    folder = data_root() / "cache" / f"start-{first.name}-{digest[:16]}"
    if not (folder / NOTES).is_file():  # the last file that `fit` writes
        fit(first, seed=0, folder=folder, progress=progress)
    return folder


def _start_encoders(model: FusionModel, first: FusionModel) -> None:
    """Take over what the encoders of another model have learnt."""
    for m in model.encode.keys() & first.encode.keys():
        ours, theirs = (encode[m].config for encode in (model.encode, first.encode))
        if (ours.sha256, ours.train) != (theirs.sha256, theirs.train):
            raise ValueError(
                f"training.start: its encoder of {m!r} is {theirs.name} with train = {theirs.train!r}; expected "
                f"{ours.name} with train = {ours.train!r}, as here"
            )
        model.encode[m].load_state_dict(first.encode[m].state_dict())


def _identity(
    recipe: Recipe, seed: int, machines: Machines, train: Dataset, valid: Dataset, loss: Any = None
) -> dict[str, Any]:
    """Return what has to be the same for an unfinished run to go on."""
    data = {"train": parts_of(train), "valid": parts_of(valid)}
    own = {"loss": getattr(loss, "__qualname__", type(loss).__qualname__)} if loss else {}
    return {"recipe": recipe.to_dict(), "seed": seed, "data": data, **own, **machines.identity()}


def parts_of(dataset: Dataset) -> dict[str, Any]:
    """Return number of samples, and hashes of order, labels and modalities: so a change of the data has a name."""
    parts = {m: content_hash(dataset, m)[:16] for m in dataset.encoders}
    digests: defaultdict[str, Any] = defaultdict(hashlib.sha256)
    samples = dataset.samples
    for sample in samples.without(tuple(parts)) if hasattr(samples, "without") else samples:
        digests["order"].update(f"{sample.id} {sample.group}\n".encode())
        digests["labels"].update(f"{None if sample.label is None else torch.as_tensor(sample.label).tolist()}".encode())
        for m in sample.features.keys() - parts.keys():
            for x in (sample.features[m], sample.masks.get(m, ())):
                x = torch.as_tensor(x).contiguous()
                digests[m].update(f"{x.dtype}{tuple(x.shape)}".encode() + x.view(torch.uint8).numpy().tobytes())
    return {"samples": len(dataset), **parts, **{name: x.hexdigest()[:16] for name, x in digests.items()}}


def _checked(datasets: Mapping[str, Dataset]) -> tuple[Dataset, Dataset]:
    """Both splits that training takes, if they have labels, and the training split more than a single class."""
    if not {"train", "valid"} <= datasets.keys():
        raise ValueError(f"datasets: found {list(datasets)}; expected 'train' and 'valid'")
    train, valid = datasets["train"], datasets["valid"]
    for dataset in (train, valid):
        labels = [torch.as_tensor(x).reshape(-1) for x in dataset.labels if x is not None]
        labels = torch.cat(labels or [torch.empty(0)])
        labels = labels[TASKS[dataset.task].known(labels)]
        name = f"{dataset.name}, split {dataset.split!r}"
        if not len(labels):
            raise TrainingError(f"{name}: no label of its {len(dataset)} samples is known; expected one at least")
        if dataset.task != "classification" or len(classes := labels.unique().tolist()) > 1:
            continue
        problem = f"{name}: every label of its {len(dataset)} samples is {classes}"
        if dataset is train:
            raise TrainingError(f"{problem}; expected at least two classes of {dataset.n_classes} to learn from")
        warnings.warn(f"{problem}; the best epoch is chosen on that one class alone", stacklevel=3)
    return train, valid


def _encoders(recipe: Recipe, train: Dataset) -> dict[str, Any]:
    """Return the model's setting "encoders": the recipe's, by the names that the data were made for."""
    encoders = {m: {"name": name} for m, name in train.encoders.items()}
    given = recipe.model.get("encoders", {})
    if not isinstance(given, Mapping) or not all(isinstance(settings, Mapping) for settings in given.values()):
        return {"encoders": given}  # which the config refuses
    for m, settings in given.items():
        name = settings.get("name", train.encoders.get(m))
        if m not in train.modalities:  # of a recipe that sees some modalities alone
            continue
        if m not in encoders or name != train.encoders[m]:
            raise ValueError(
                f"model.encoders.{m}: {name!r}; {train.name} was made for {train.encoders or 'no encoder'}. "
                "Say data.encode = false, and the same encoder in [data]"
            )
        encoders[m] |= settings
    return {"encoders": encoders} if encoders else {}


def settings_of(recipe: Recipe, train: Dataset) -> dict[str, Any]:
    """Return the settings of the recipe's model for this data set, as `build_model` takes them."""
    settings = {"modalities": train.modalities, "task": train.task, "n_classes": train.n_classes}
    settings["classes"] = train.classes if len(train.classes) == train.n_classes else []
    model, known = dict(recipe.model), [*train.modalities, *train.left_out]
    for name in ("shuffle", "grids", "shortcut"):
        values = model.get(name)
        if isinstance(values, (Mapping, list, tuple)):  # the config refuses others
            if unknown := [m for m in values if m not in known]:
                raise ValueError(f"model.{name}: found {unknown[0]!r}; the modalities are {known}")
            here = [m for m in values if m in train.modalities]
            model[name] = {m: values[m] for m in here} if isinstance(values, Mapping) else here
    settings |= {"readout": train.readout} | ({"anchor": train.anchor} if train.anchor else {})
    if model.get("shortcut") == "all":
        model["shortcut"] = [] if settings["readout"] in STEPS else list(train.modalities)
    if model.get("class_weights") == "balanced" and train.task in ("classification", "multilabel"):
        model["class_weights"] = TASKS[train.task].balanced(train.labels, train.n_classes)
    return {**settings, **model, **_encoders(recipe, train)}


def build(recipe: Recipe, train: Dataset) -> FusionModel:
    """Return the recipe's model for this data set, standardising features by the training split's statistics."""
    model = build_model(settings_of(recipe, train))
    model.set_statistics(train.statistics())
    return model
