"""What a training meets besides its run: versions, device, threads, random generators, a C++ compiler."""

import os
import random
import shutil
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import numpy as np
import torch

ADD_COMPILER = "apt install g++, or conda install cxx-compiler"


def environment() -> dict[str, Any]:
    """Return the versions, the device and the number of threads."""
    return {
        "alignmamba2": metadata.version("alignmamba2"),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
    }


def random_state() -> dict[str, Any]:
    """Return the state of every generator that training draws from: Python's, NumPy's, PyTorch's, each GPU's."""
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


def no_compiler() -> str:
    """Return why `torch.compile` cannot work here, for want of a C++ compiler, or "" where it can."""
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")  # as PyTorch, which is slow to import
    compiler = os.environ.get("CXX", usual)
    return "" if shutil.which(compiler) else f"no C++ compiler ({compiler} was not found)"
