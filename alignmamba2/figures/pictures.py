"""Pictures side by side, as they lie in a file."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .style import array, titled

WIDEST = 360  # pixels of a picture; a page should stay light


def side_by_side(pictures: Mapping[str, Any], *, title: str = "Pictures", note: str = "") -> go.Figure:
    """Pictures in a row, each under its caption, none stretched.

    Parameters
    ----------
    pictures : mapping of caption to uint8 array (H, W, 3), or to array (H, W), which becomes grey from dark to light
    title, note : str

    Examples
    --------
    >>> figure = side_by_side({"colour": np.zeros((4, 6, 3), np.uint8), "depth": np.eye(4)})
    >>> [a.text for a in figure.layout.annotations]
    ['colour', 'depth']
    """
    figure = make_subplots(rows=1, cols=len(pictures), subplot_titles=list(pictures), horizontal_spacing=0.03)
    for column, values in enumerate(pictures.values(), start=1):
        figure.add_trace(as_trace(pixels(values)), 1, column)
    figure.update_xaxes(visible=False, constrain="domain")
    figure.update_yaxes(visible=False, constrain="domain")
    figure.update_annotations(font_size=15)
    told = ", ".join(f"{name}: {' × '.join(map(str, np.shape(array(p))[:2]))}" for name, p in pictures.items())
    return titled(figure, title, note, height=400, words=f"{told}.").update_layout(margin={"l": 20, "r": 20, "b": 20})


def of_sample(dataset: Any, sample: Any) -> dict[str, Any]:
    """The pictures of a sample, by modality, as `Dataset.show` has them; none of a modality that is missing.

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
    """A picture of three bytes a pixel, (H, W, 3); one number a pixel becomes grey, from dark to light."""
    values = array(values)
    if values.ndim == 3 and values.shape[2] == 3:
        return values.astype(np.uint8)
    if values.ndim != 2:
        raise ValueError(f"picture: found {values.shape}; expected (H, W, 3) or (H, W)")
    low, high = float(values.min()), float(values.max())
    grey = ((values - low) / max(high - low, 1e-12) * 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def data_uri(picture: Any) -> str:
    """A PIL image as a PNG inside an address, for a page that stands alone."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def as_trace(picture: np.ndarray, x: float = 0.0) -> go.Image:
    """A picture (H, W, 3) whose pixels lie at x, x + 1, …; a large one is drawn coarser, at the same size."""
    from PIL import Image

    step = max(1, -(-max(picture.shape[:2]) // WIDEST))
    source = data_uri(Image.fromarray(np.ascontiguousarray(picture[::step, ::step])))
    first = (step - 1) / 2
    return go.Image(source=source, x0=x + first, dx=step, y0=first, dy=step, hoverinfo="skip")
