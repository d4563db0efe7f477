"""What trains: the device, the precision, and the processes that share each batch."""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed

from .environment import ADD_COMPILER, no_compiler

if TYPE_CHECKING:
    from accelerate import Accelerator

ACCELERATORS = ("auto", "cpu", "gpu", "mps")
PRECISIONS = {"32-true": "no", "bf16-mixed": "bf16"}  # and Accelerate's names


@dataclass(frozen=True)
class Machines:
    """Machines are the devices and processes that train, and how: options of `fit` that leave the recipe as it is.

    A `ValueError` names an option of another value, or a device or compiler that this machine does not have.
    """

    accelerator: str = "auto"
    devices: int | str = 1
    precision: str = "32-true"
    accumulate: int = 1
    num_workers: int = 0
    compile: bool = False

    def __post_init__(self) -> None:
        for name, options in (("accelerator", ACCELERATORS), ("precision", PRECISIONS)):
            if getattr(self, name) not in options:
                raise ValueError(f"{name}: found {getattr(self, name)!r}; expected one of {', '.join(options)}")
        for name, least in (("devices", 1), ("accumulate", 1), ("num_workers", 0)):
            value = getattr(self, name)
            if not ((isinstance(value, int) and value >= least) or (name, value) == ("devices", "auto")):
                auto = ', or "auto"; accelerator names the kind' if name == "devices" else ""
                raise ValueError(f"{name}: found {value!r}; expected a whole number of at least {least}{auto}")
        if not _count(self.kind):
            raise ValueError(f"accelerator: found {self.kind!r}, which PyTorch does not see here; say cpu or auto")
        if self.local_processes > _count(self.kind):
            raise ValueError(f"devices: found {self.devices}; there are {_count(self.kind)} of kind {self.kind!r}")
        if self.compile and (why := no_compiler()):
            raise ValueError(f"compile: found {why}; expected one that works. {ADD_COMPILER}, or leave compile out")

    @property
    def kind(self) -> str:
        """The kind of device: "cpu", "gpu" or "mps"."""
        return self.accelerator if self.accelerator != "auto" else next(k for k in ("gpu", "mps", "cpu") if _count(k))

    @property
    def local_processes(self) -> int:
        """The number of processes to train in on this machine."""
        if self.devices == "auto":
            return 1 if self.kind == "cpu" else _count(self.kind)
        return int(self.devices)

    def identity(self) -> dict[str, Any]:
        """Return what of it changes the last bits of the weights."""
        changes = {n: getattr(self, n) for n in ("precision", "accumulate", "compile")}
        changes = {name: value for name, value in changes.items() if value != getattr(Machines, name)}
        return {"processes": process()[1] if _is_launched() else self.local_processes, **changes}

    def start(self, **options: Any) -> Accelerator:
        """Start the other processes of this machine unless a launcher did, join them, and return the Accelerator."""
        from accelerate import Accelerator, DistributedDataParallelKwargs
        from accelerate.state import AcceleratorState

        if self.local_processes > 1 and not _is_launched():
            start_others(self.local_processes)
        AcceleratorState._reset_state(reset_partial_state=True)  # else the first call's device and precision stay
        accelerator = Accelerator(
            cpu=self.kind == "cpu",
            mixed_precision=PRECISIONS[self.precision],
            # Of one process's samples, all may lack a modality.
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
            **options,
        )
        here, count = int(os.environ.get("LOCAL_WORLD_SIZE", self.local_processes)), accelerator.num_processes
        if self.local_processes not in (1, here) or count != process()[1]:
            raise ValueError(
                f"devices: found {self.devices}, but a launcher started {here} processes here, {process()[1]} in all, "
                f"of which {count} train together; expected one number, or leave devices out"
            )
        return accelerator


def _count(kind: str) -> int:
    """Return how many devices of a kind there are; as many processes as one likes share a CPU."""
    if kind == "gpu":
        return torch.cuda.device_count()
    return int(torch.backends.mps.is_available()) if kind == "mps" else sys.maxsize


def _is_launched() -> bool:
    """Return whether torchrun, `accelerate launch` or `start_others` started this process."""
    return "RANK" in os.environ


def process() -> tuple[int, int]:
    """Return the number of this process among those that train together, and how many these are."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def gathered(value: Any) -> list[Any]:
    """Return the value of every process that trains with this one, by number."""
    _, world = process()
    values = [value] * world
    if world > 1:
        distributed.all_gather_object(values, value)
    return values


def start_others(n: int) -> None:
    """Run this same command n − 1 times more, as the other processes of a training; this one becomes the first.

    They meet through the variables that torchrun sets. If one of them is lost, the next exchange with it fails.
    """
    program = getattr(sys.modules["__main__"], "__spec__", None)
    if program is None and not Path(sys.argv[0]).is_file():
        raise ValueError(
            f"devices: found {n}, in a session without a script to start again; expected 1. Run a script, or see "
            "notebook_launcher of Accelerate"
        )
    command = [os.path.abspath(sys.argv[0])] if program is None else ["-m", program.name.removesuffix(".__main__")]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // n))
        os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n), "RANK": "0", "LOCAL_RANK": "0"}
    others = []
    for rank in range(1, n):
        environment = {**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        others.append(subprocess.Popen([sys.executable, *command, *sys.argv[1:]], env=environment))
    atexit.register(_end, others)


def _end(others: list[subprocess.Popen]) -> None:
    """Wait for the other processes, which are done when this one is, and end those that hang."""
    for other in others:
        try:
            other.wait(20)
        except subprocess.TimeoutExpired:
            other.kill()
