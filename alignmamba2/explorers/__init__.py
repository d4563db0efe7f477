"""Panels to play with: ipywidgets made of figures. Each has `.fig`, `.controls` and `.update()`."""

from .transport import TransportExplorer

__all__ = ["TransportExplorer"]
