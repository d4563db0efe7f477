"""Is there what `torch.compile` needs? Asked by `fit` and `doctor`, which should not load a trainer for it."""

from __future__ import annotations

ADD_COMPILER = "apt install g++, or conda install cxx-compiler"


def no_compiler() -> str:
    """Why `torch.compile` cannot work here: it hands C++ to a compiler. Nothing where it can."""
    from torch._inductor.cpp_builder import get_cpp_compiler  # slow to import

    try:
        get_cpp_compiler()
    except RuntimeError as error:
        return f"no C++ compiler ({str(error).splitlines()[0]})"
    return ""
