"""The checkpoint of an unfinished run: all that it takes to go on as if nothing had happened."""

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..storage.files import FileError, pack, read_tensors, unpack, write_tensors
from .environment import environment

FILE = "unfinished.safetensors"
KIND, VERSION = "alignmamba2-unfinished-run", 2


class CheckpointError(ValueError):
    """A run cannot go on from its checkpoint; the message names the file and says what to do."""


class Checkpoint:
    """Checkpoint is one file in `folder`: tensors, and JSON among the notes of the same file, so of the same moment.

    `identity` (recipe, seed, data) must be the same for a run to go on. A change of what may change the last bits, such
    as the number of threads, is a warning.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]):
        self.path = folder / FILE
        self.identity = json.loads(json.dumps(identity))  # as it will be when read back

    def write(self, state: Mapping[str, Any]) -> None:
        """Write nested dicts and lists of tensors and plain values in place of the last state."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, torch.Tensor] = {}
        packed = json.dumps(pack(state, tensors))
        notes = {"kind": KIND, "version": str(VERSION), "identity": json.dumps(self.identity)}
        write_tensors(self.path, tensors, {**notes, "environment": json.dumps(environment()), "state": packed})

    def read(self) -> dict[str, Any] | None:
        """Return what `write` wrote, or None without a file. Nothing in the file is executed.

        A `CheckpointError` says that the file is damaged, from a newer version, or of another run, and names every
        setting that differs.
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
        if changed := list(_differences(identity, self.identity)):
            raise CheckpointError(
                f"{self.path}: an unfinished run that is another one: {'; '.join(changed)}. "
                "Give another folder; or, to start anew, remove that file or say resume=False"
            )
        if changed := list(_differences(then, environment())):
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


def _differences(then: Any, now: Any, name: str = "") -> Iterator[str]:
    """Yield texts such as "recipe.training.learning_rate was 0.001, is 0.01"."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key in sorted({*then, *now}):
            yield from _differences(then.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif then != now:
        yield f"{name} was {then!r}, is {now!r}"
