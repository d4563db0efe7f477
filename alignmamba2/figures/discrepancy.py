"""How far apart the modalities' tokens lie: the MMD of each pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from .style import look, titled, whole_steps

History = Sequence[Mapping[str, float]]


def mmd_over_epochs(history: History, *, note: str = "") -> go.Figure:
    """The MMD of each pair over the epochs of a training, in the colour of the modality that is aligned.

    Parameters
    ----------
    history : list of mappings, one an epoch
        With "epoch" and "train/mmd/<modality>-<anchor>", and the same of "valid" where it was measured.
    note : str
        The subtitle; say "synthetic" here where the data are.

    Examples
    --------
    >>> figure = mmd_over_epochs([{"epoch": 0, "train/mmd/audio-text": 0.9}, {"epoch": 1, "train/mmd/audio-text": 0.4}])
    >>> list(figure.data[0].y)
    [0.9, 0.4]
    """
    names = sorted(
        {name for epoch in history for name in epoch if name.split("/")[1:2] == ["mmd"] and name.count("/") == 2}
    )
    if not names:
        raise ValueError("history: no entry such as 'train/mmd/audio-text'; expected a model with at least one pair")
    figure = go.Figure()
    for name in names:
        split, _, pair = name.split("/")
        shown = look(pair.split("-")[0])
        epochs = [epoch for epoch in history if epoch.get(name) is not None]
        held_out = split != "train"
        words = f"{pair.replace('-', ' ↔ ')}, {'validation' if held_out else 'training'}"
        figure.add_scatter(
            x=[epoch["epoch"] for epoch in epochs],
            y=[epoch[name] for epoch in epochs],
            mode="lines+markers",
            name=words,
            line={"color": shown.colour, "dash": "dot" if held_out else "solid", "width": 2 if held_out else 3},
            marker={"symbol": shown.symbol + ("-open" if held_out else ""), "size": 9},
            hovertemplate=f"{words}<br>epoch %{{x}}: %{{y:.4f}}<extra></extra>",
        )
    figure.update_xaxes(title="epoch", tick0=0, dtick=whole_steps(len(history), 10))
    figure.update_yaxes(title="MMD (squared)", rangemode="tozero")
    return titled(figure, "MMD between the modalities, during training", note)
