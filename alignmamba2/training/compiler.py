"""Whether `torch.compile` finds its C++ compiler; `doctor` asks this without loading the trainer."""

ADD_COMPILER = "apt install g++, or conda install cxx-compiler"


def no_compiler() -> str:
    """Return why `torch.compile` cannot work here, for want of a C++ compiler, or "" where it can."""
    from torch._inductor.cpp_builder import get_cpp_compiler  # slow to import

    try:
        get_cpp_compiler()
    except RuntimeError as error:
        return f"no C++ compiler ({str(error).splitlines()[0]})"
    return ""
