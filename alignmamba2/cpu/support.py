"""Whether numba works here: a module, so that the answer is found once, and by torch.compile too."""

OBSTACLE: tuple[str, str] | None = None  # the reason and the command that mends it
try:
    import numba

    if numba.config.DISABLE_JIT:
        OBSTACLE = "numba's compiler is switched off by NUMBA_DISABLE_JIT", "unset NUMBA_DISABLE_JIT"
    else:
        from .lanes import functions  # noqa: F401 - needs parts of numba that change from version to version
except Exception as error:  # numba refuses a NumPy that it does not know with more than ImportError
    OBSTACLE = f"numba does not import ({error})", "pip install numba"
