"""Two clouds of points in the unit square: drawn at random, moved with a slider, or dragged in the figure itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import anywidget
import numpy as np
import traitlets

EDGE = 0.03  # points stay this far inside the square


class PointClouds:
    """Two clouds `x` and `y` (N, 2), the one to the left of the other."""

    def __init__(self, count: int, seed: int):
        self._count, self._seed, self._draws = count, seed, -1
        self.draw()

    def draw(self) -> None:
        """Draw other points; the same ones in the same order for the same seed."""
        self._draws += 1
        rng = np.random.default_rng([self._seed, self._draws])
        spread = (0.13, 0.2)
        self.x, self.y = (
            np.clip(rng.normal((middle, 0.5), spread, (self._count, 2)), EDGE, 1 - EDGE) for middle in (0.3, 0.7)
        )


class PointDragging(anywidget.AnyWidget):
    """A widget without a look of its own, in the same box as a figure, that lets points of the figure be dragged.

    While a point moves, its place is sent whenever Python has answered the last one, so that the figure follows the
    hand as quickly as Python can and never lags behind.

    Parameters
    ----------
    traces : names, in `meta`, of the traces with these points
    axes : names in the layout, such as ("xaxis4", "yaxis4"), of their axes
    move : callable (trace's name, point's index, x, y)
    """

    _esm = Path(__file__).with_suffix(".js").read_text("utf-8")
    traces = traitlets.List().tag(sync=True)
    axes = traitlets.List().tag(sync=True)
    moved = traitlets.List().tag(sync=True)  # the arguments of `move`, set by the browser
    answered = traitlets.Int().tag(sync=True)

    def __init__(self, traces: Sequence[str], axes: Sequence[str], move: Callable[[str, int, float, float], None]):
        super().__init__(traces=list(traces), axes=list(axes), layout={"display": "none"})
        self._move = move

    @traitlets.observe("moved")
    def _answer(self, change: dict) -> None:
        try:
            self._move(*change["new"])
        finally:
            self.answered += 1
