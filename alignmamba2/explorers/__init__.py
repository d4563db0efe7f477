"""Panels to play with: ipywidgets around a figure. Each has `.fig`, `.controls`, `.update()` and `.words`."""

from .data import DataExplorer
from .discrepancy import DiscrepancyExplorer
from .embedding import EmbeddingExplorer
from .panel import Explorer
from .routing import RoutingExplorer
from .sample import SampleExplorer
from .scan import ScanExplorer
from .training import TrainingMonitor
from .transport import TransportExplorer
