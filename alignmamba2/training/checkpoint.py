"""The checkpoint of an unfinished run: all that it takes to go on as if nothing had happened."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..storage.files import FileError, pack, read_tensors, unpack, write_tensors

FILE = "unfinished.safetensors"
KIND, VERSION = "alignmamba2-unfinished-run", 1


class CheckpointError(ValueError):
    """A checkpoint cannot be gone on from; the message names it and says what to do."""


class Checkpoint:
    """One file in `folder`: tensors, and JSON among the notes of the same file, so that both are of one moment.

    `identity` is what must be the same for going on to make sense (recipe, seed, data). What should be the same for the
    last bits to be (versions, device, threads) is compared too, but only warned of.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]):
        self.path = folder / FILE
        self.identity = json.loads(json.dumps(identity))  # as it will be when read back

    def write(self, state: Mapping[str, Any]) -> None:
        """Write nested dicts and lists of tensors and plain values in place of what was there before."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, torch.Tensor] = {}
        packed = json.dumps(pack(state, tensors))
        notes = {"kind": KIND, "version": str(VERSION), "identity": json.dumps(self.identity)}
        write_tensors(self.path, tensors, {**notes, "environment": json.dumps(environment()), "state": packed})

    def read(self) -> dict[str, Any] | None:
        """What `write` wrote; None where there is nothing to go on from. Nothing in the file is executed.

        Raises
        ------
        CheckpointError
            The file is damaged, from a newer version, or of another run; every setting that differs is named.
        """
        if not self.path.is_file():
            return None
        anew = f"Remove {self.path}, or say resume=False, to start anew"
        try:
            tensors, notes = read_tensors(self.path)
        except FileError as error:
            raise CheckpointError(f"{error}. {anew}") from error
        if notes.get("kind") != KIND or not notes.get("version", "").isdecimal():
            raise CheckpointError(f"{self.path}: kind {notes.get('kind')!r}; expected {KIND!r}. {anew}")
        if int(notes["version"]) > VERSION:
            raise CheckpointError(
                f"{self.path}: format {notes['version']}, from a newer alignmamba2; this one reads {VERSION}. {anew}"
            )
        try:
            identity, then, packed = (json.loads(notes[name]) for name in ("identity", "environment", "state"))
            state = unpack(packed, tensors)
            if not isinstance(state, dict) or not isinstance(identity, dict) or not isinstance(then, dict):
                raise TypeError("expected mappings")
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{self.path}: not as fit writes it ({error!r}). {anew}") from error
        changed = list(_differences(identity, self.identity))
        if changed:
            raise CheckpointError(
                f"{self.path}: an unfinished run that is another one: {'; '.join(changed)}. "
                "Give another folder; or, to start anew, remove that file or say resume=False"
            )
        changed = list(_differences(then, environment()))
        if changed:
            warnings.warn(f"{self.path}: the last bits may change: {'; '.join(changed)}", stacklevel=2)
        return state

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


@contextmanager
def restoring() -> Iterator[None]:
    """Turn what goes wrong while a state is put back into a `CheckpointError`."""
    try:
        yield
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(f"the checkpoint does not fit this model: {error}; resume=False starts anew") from error


def environment() -> dict[str, Any]:
    """What decides the last bits besides the run itself."""
    return {
        "alignmamba2": metadata.version("alignmamba2"),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
    }


def random_state() -> dict[str, Any]:
    """The state of every generator that training draws from: Python's, NumPy's, PyTorch's, each GPU's."""
    version, words, gauss = random.getstate()
    kind, keys, place, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    return {
        "python": [version, list(words), gauss],
        "numpy": [kind, keys.tolist(), int(place), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    np.random.set_state(tuple(state["numpy"]))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])


def _differences(then: Any, now: Any, name: str = "") -> Iterator[str]:
    """Such as "recipe.training.learning_rate was 0.001, is 0.01"."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key in sorted({*then, *now}):
            yield from _differences(then.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif then != now:
        yield f"{name} was {then!r}, is {now!r}"
