"""Whether Triton works here: a module, so that the answer is found once, and by torch.compile too."""

import os

OBSTACLE: tuple[str, str] | None = None  # the reason and the command that mends it
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
try:
    import triton  # noqa: F401 - which comes with PyTorch's CUDA builds for Linux
except Exception as error:  # of another Python or without its compiler: anything from ImportError to OSError
    OBSTACLE = f"triton does not import ({error})", "pip install triton"
