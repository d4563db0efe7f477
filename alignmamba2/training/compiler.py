"""Whether `torch.compile` finds its C++ compiler; `doctor` asks this without loading the trainer."""

import os
import shutil
import sys

ADD_COMPILER = "apt install g++, or conda install cxx-compiler"


def no_compiler() -> str:
    """Return why `torch.compile` cannot work here, for want of a C++ compiler, or "" where it can."""
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")  # as PyTorch, which is slow to import
    compiler = os.environ.get("CXX", usual)
    return "" if shutil.which(compiler) else f"no C++ compiler ({compiler} was not found)"
