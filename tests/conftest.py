"""What several tests share: a made-up batch, and the real data where it is at hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import strategies as st

from alignmamba2.batch import MultimodalBatch, Sample
from alignmamba2.datasets import is_present

WIDTHS = {"text": 6, "audio": 4, "video": 5}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if "cuda" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU here"))


def make_samples(lengths: list[tuple[int, int, int]], seed: int = 0, per_step: bool = False) -> list[Sample]:
    """Samples with the given numbers of text, audio and video tokens."""
    draw = torch.Generator().manual_seed(seed)
    samples = []
    for i, sizes in enumerate(lengths):
        features = {
            m: torch.randn(t, width, generator=draw) for (m, width), t in zip(WIDTHS.items(), sizes, strict=True)
        }
        label = torch.randint(0, 2, (sizes[0],) if per_step else (), generator=draw)
        samples.append(Sample(features, label, f"sample-{i}"))
    return samples


@st.composite
def ragged_pairs(draw) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """x, y, x_mask, y_mask: 1 to 3 samples of 0 to 6 tokens a side, padding of NaN anywhere between them.

    Half the time numbers are whole, so that tokens and distances coincide and some tokens are 0.
    """
    samples, width = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    sides = []
    for _ in range(2):
        counts = draw(st.lists(st.integers(0, 6), min_size=samples, max_size=samples))
        length = max(counts) + draw(st.integers(0, 2))
        places = torch.rand(samples, length, generator=generator).argsort(1)
        mask = places < torch.tensor(counts)[:, None]
        tokens = torch.randn(samples, length, width, generator=generator, dtype=torch.float64)
        sides.append((tokens, mask))
    if draw(st.booleans()):
        sides = [(tokens.round(), mask) for tokens, mask in sides]
    (x, x_mask), (y, y_mask) = ((tokens.masked_fill(~mask[..., None], torch.nan), mask) for tokens, mask in sides)
    return x, y, x_mask, y_mask


@pytest.fixture
def ragged() -> MultimodalBatch:
    """Odd lengths, a single token, and a missing modality."""
    return MultimodalBatch.from_samples(make_samples([(5, 7, 3), (1, 4, 9), (6, 0, 2), (3, 3, 3)]))


@pytest.fixture(scope="session")
def real_mosi() -> None:
    if not is_present("mosi-utterances"):
        pytest.skip("the real CMU-MOSI is not here: python -m alignmamba2 data fetch mosi-utterances")
