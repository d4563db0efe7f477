"""UMAP that reports its progress and can be stopped."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable
from typing import Any
from unittest.mock import patch

import numpy as np

EPOCHS = 200


class Cancelled(Exception):
    """The result is not wanted any more."""


def umap_projection(
    points: np.ndarray,
    neighbours: int,
    distance: float,
    random_state: int,
    progress: Callable[[float], None] = lambda share: None,
) -> np.ndarray:
    """Return points (N, d) on a plane (N, 2) by UMAP, calling `progress` with the share that is done (0 to 1).

    An exception that `progress` raises ends the work. The same arguments give the same plane.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # repeatable UMAP runs on one core, and says so each time
        import umap.layouts  # here, since it takes seconds to import

        this_thread, tqdm = threading.get_ident(), umap.layouts.tqdm

        def watched(epochs: range, **options: Any) -> Iterable[int]:
            if threading.get_ident() != this_thread:  # another thread's UMAP
                yield from tqdm(epochs, **options)
                return
            for epoch in epochs:
                progress(epoch / len(epochs))
                yield epoch

        reducer = umap.UMAP(
            n_neighbors=min(neighbours, len(points) - 1), min_dist=distance, random_state=random_state, n_epochs=EPOCHS
        )
        # UMAP has no callback, but a progress bar over its epochs. (To raise inside a real bar would keep tqdm's lock.)
        with patch.object(umap.layouts, "tqdm", watched):
            return reducer.fit_transform(points).astype(np.float32)
