"""Ways not to wait for a GPU: its host queues work ahead, and each look at a value of the device stops that."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

LATE = {"cuda"}  # devices whose flags are read late
_unseen = [False]


@contextmanager
def unseen(training: bool) -> Iterator[None]:
    """Decide nothing by values on a device within this context, in training; the loop looks at each step's loss."""
    before, _unseen[0] = _unseen[0], training
    try:
        yield
    finally:
        _unseen[0] = before


def may_look(x: Tensor) -> bool:
    """Return whether the host may decide by the values of x."""
    return x.device.type == "cpu" or not _unseen[0]


def widest(x: Tensor) -> torch.dtype:
    """Return float64, or float32 on a device that has no other, such as Apple's."""
    return torch.float64 if x.device.type in ("cpu", "cuda") else torch.float32


def on_host(x: Tensor) -> Tensor:
    """Return a mask or labels where Python reads them without waiting: as they were before they went to a device.

    What comes from elsewhere is fetched.
    """
    host = getattr(x, "host", x)
    return host if host.device.type == "cpu" else x.cpu()


def send(x: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the host on a device, without waiting for it; `on_host` knows what it was."""
    if x.device == device:
        return x
    return remember((x.pin_memory() if device.type == "cuda" else x).to(device, non_blocking=True), x)


def remember(there: Tensor | None, here: Tensor | None) -> Tensor | None:
    """Return `there`, a copy on a device, of which `on_host` is to return `here`."""
    if there is not None and there is not here and there.device.type != "cpu":
        there.host = getattr(here, "host", here)
    return there


class Flag:
    """A flag of a device that never falls again, and that the host of a GPU reads late and without waiting."""

    def __init__(self, device: torch.device) -> None:
        self.late = device.type in LATE
        self.here = torch.zeros((), dtype=torch.bool, pin_memory=self.late and torch.cuda.is_available())
        self.event: torch.cuda.Event | None = None

    def was(self, flag: Tensor) -> bool:
        """Return the flag, or on a GPU what it was when it was last copied; and copy it."""
        if not self.late:
            return bool(flag)
        if self.event is not None and not self.event.query():
            return False  # the copy is on its way
        arrived = bool(self.here)
        self.here.copy_(flag, non_blocking=True)
        self.event = torch.cuda.Event()
        self.event.record()
        return arrived
