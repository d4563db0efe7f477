"""UMAP that tells how far it is, and that can be stopped."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable
from typing import Any
from unittest.mock import patch

import numpy as np

EPOCHS = 200


class Cancelled(Exception):
    """Whoever asked does not want it any more."""


def umap_plane(
    points: np.ndarray,
    neighbours: int,
    distance: float,
    random_state: int,
    progress: Callable[[float], None] = lambda share: None,
) -> np.ndarray:
    """Points (N, d) on a plane (N, 2) by UMAP, telling `progress` how far it is (0 to 1).

    What `progress` raises ends the work. The same arguments give the same plane.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # repeatable UMAP runs on one core, and says so each time
        import umap.layouts  # here, since it takes seconds to import

        mine, plain = threading.get_ident(), umap.layouts.tqdm

        def watched(epochs: range, **options: Any) -> Iterable[int]:
            if threading.get_ident() != mine:  # another thread's UMAP
                yield from plain(epochs, **options)
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
