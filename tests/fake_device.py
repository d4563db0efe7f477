"""A GPU that is none: its tensors lie on the processor, say they are on another device, and every look at them counts.

Within `FakeDevice()`, ``torch.zeros(2, device=DEVICE)`` and ``x.to(DEVICE)`` make such tensors; all of PyTorch works on
them, at the processor's speed. What makes a real GPU's host wait is counted by name and place in `looks`: a number or a
tensor fetched, and operators whose result's size depends on values. To mix devices is an error, as on a real one.
"""

from __future__ import annotations

import traceback
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

DEVICE = torch.device("meta")  # whose name nobody else here uses; that of a GPU would need PyTorch's GPU build
aten = torch.ops.aten
# Operators that look at values to know how large their result is.
LOOKS = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.bincount, aten.equal, aten._unique2}
HOME = Path(__file__).parents[1] / "alignmamba2"


class There(torch.Tensor):
    """There is a tensor of the device; `here` is the processor's, with its values."""

    here: torch.Tensor

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> There:
        options = {"strides": here.stride(), "storage_offset": here.storage_offset(), "dtype": here.dtype}
        return torch.Tensor._make_wrapper_subclass(cls, here.shape, device=DEVICE, **options)

    def __init__(self, here: torch.Tensor) -> None:
        self.here = here

    def __repr__(self) -> str:  # type: ignore[override]
        return f"There({self.here})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} outside FakeDevice")


class FakeDevice(TorchDispatchMode):
    """FakeDevice is the context in which tensors of the device live."""

    def __init__(self) -> None:
        super().__init__()
        self.looks: Counter[str] = Counter()
        self.calls = 0  # operators on the device: at least one launch each

    def __enter__(self):
        self.autocast = torch.autocast
        torch.autocast = lambda kind, **options: (
            nullcontext() if kind == DEVICE.type else self.autocast(kind, **options)
        )
        self.tolist, torch.Tensor.tolist = torch.Tensor.tolist, lambda x: self._list(x)
        return super().__enter__()

    def __exit__(self, *error):
        torch.autocast, torch.Tensor.tolist = self.autocast, self.tolist
        return super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        inputs: list[torch.Tensor] = []
        tree_map_only(torch.Tensor, inputs.append, (args, kwargs))
        there = [x for x in inputs if isinstance(x, There)]
        device = kwargs.get("device")
        if device is not None:
            kwargs["device"] = torch.device("cpu")
        copies = func.overloadpacket in (aten._to_copy, aten.copy_, aten._pin_memory)
        goes_there = device == DEVICE if device is not None else bool(there)
        if there and not copies and any(x.ndim and not isinstance(x, There) for x in inputs):
            raise RuntimeError(f"{func}: tensors on two devices")
        if there:
            self.calls += 1
            if device is not None and not goes_there:
                self._look("copy to the host")
            elif func.overloadpacket in LOOKS:
                self._look(str(func.overloadpacket))
            elif func.overloadpacket in (aten.index, aten.index_put_, aten.index_put) and self._by_mask(args[1]):
                self._look("index by a mask")
            elif func.overloadpacket is aten.repeat_interleave and kwargs.get("output_size") is None:
                self._look("repeat_interleave")
            elif (
                func is aten.copy_.default
                and not isinstance(args[0], There)
                and (*args, *kwargs.values())[2:] != (True,)
            ):
                self._look("copy to the host")
        # An operator that writes into its argument returns it, and not a new tensor of the same memory.
        named = {id(x.here): x for x in there}
        inside = tree_map_only(There, lambda x: x.here, (args, kwargs))
        results = func(*inside[0], **inside[1])
        if not goes_there:
            return results
        return tree_map_only(torch.Tensor, lambda x: named[id(x)] if id(x) in named else There(x), results)

    def _list(self, x: torch.Tensor) -> list:
        if isinstance(x, There):
            self._look("tolist")
            x = x.here
        return self.tolist(x)

    @staticmethod
    def _by_mask(indices) -> bool:
        return any(isinstance(i, torch.Tensor) and i.dtype in (torch.bool, torch.uint8) for i in indices)

    def _look(self, what: str) -> None:
        frames = [f for f in traceback.extract_stack() if HOME in Path(f.filename).parents]
        place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "the test"
        self.looks[f"{what}, {place}"] += 1
