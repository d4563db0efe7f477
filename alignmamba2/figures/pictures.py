"""The pictures of a data set: side by side, or as one trace of a figure."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from .marks import panels
from .style import array, titled

WIDEST = 360  # pixels of a picture; a page should stay light


def side_by_side(pictures: Mapping[str, Any], *, title: str = "Pictures", note: str = "") -> go.Figure:
    """Draw pictures in a row, each under its caption, none stretched.

    Parameters
    ----------
    pictures : mapping of caption to uint8 array (H, W, 3) or array (H, W)
        One number per pixel becomes grey, from dark to light.
    title, note : str

    Raises
    ------
    ValueError
        If an array is no picture.

    Examples
    --------
    >>> figure = side_by_side({"colour": np.zeros((4, 6, 3), np.uint8), "depth": np.eye(4)})
    >>> [a.text for a in figure.layout.annotations]
    ['colour', 'depth']
    """
    figure = panels(list(pictures), 0.03)
    for column, values in enumerate(pictures.values(), start=1):
        figure.add_trace(as_trace(pixels(values)), 1, column)
    figure.update_xaxes(visible=False, constrain="domain")
    figure.update_yaxes(visible=False, constrain="domain")
    figure.update_annotations(font_size=15)
    sizes = ", ".join(f"{name}: {' × '.join(map(str, np.shape(array(p))[:2]))}" for name, p in pictures.items())
    return titled(figure, title, note, height=400, words=f"{sizes}.", margin={"l": 20, "r": 20, "b": 20})


def of_sample(dataset: Any, sample: Any) -> dict[str, Any]:
    """Return the pictures of a sample by modality, as `Dataset.show` makes them, without missing modalities.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> room = SimpleNamespace(features={"image": [1.0], "depth": []})
    >>> show = {"image": lambda sample: "a picture", "depth": lambda sample: None}
    >>> of_sample(SimpleNamespace(show=show), room)
    {'image': 'a picture'}
    """
    show = {m: see for m, see in getattr(dataset, "show", {}).items() if m != "audio"}
    missing = {m for m, tokens in sample.features.items() if not len(tokens)}
    return {m: see(sample) for m, see in show.items() if m not in missing}


def pixels(values: Any) -> np.ndarray:
    """Return a picture as bytes (H, W, 3); one number per pixel (H, W) becomes grey, from dark to light."""
    values = array(values)
    if values.ndim == 3 and values.shape[2] == 3:
        return values.astype(np.uint8)
    if values.ndim != 2:
        raise ValueError(f"picture: found {values.shape}; expected (H, W, 3) or (H, W)")
    low, high = float(values.min()), float(values.max())
    grey = ((values - low) / max(high - low, 1e-12) * 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def data_uri(picture: Any) -> str:
    """Return a PIL image as a data URI of a PNG, for a page that stands alone."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def as_trace(picture: np.ndarray, x: float = 0.0) -> go.Image:
    """Return a picture (H, W, 3) with its pixels at x, x + 1, …; a large one is drawn coarser, at the same size."""
    from PIL import Image

    step = max(1, -(-max(picture.shape[:2]) // WIDEST))
    source = data_uri(Image.fromarray(np.ascontiguousarray(picture[::step, ::step])))
    first = (step - 1) / 2
    return go.Image(source=source, x0=x + first, dx=step, y0=first, dy=step, hoverinfo="skip")
