"""A step of training on data of any size, and on samples of any length: time and memory of each (see `big.py`).

**Size.** A store of N utterances of MOSEI's unaligned shape, which the token store reads. Only the utterances that
the steps draw are written; the others are a hole in the file, which the system reads as zeros and which takes no disk.
So it is the size that grows, in the index, in the draw of an order and in where the reads go, and not the disk that is
measured: what is read comes from memory.
"""

from __future__ import annotations

import statistics
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alignmamba2.batch import MultimodalBatch
from alignmamba2.datasets.base import Dataset
from alignmamba2.datasets.store import StoredSamples
from alignmamba2.model import AlignMamba2
from alignmamba2.model.config import AlignMamba2Config
from alignmamba2.recipes import Recipe
from alignmamba2.storage.token_store import HEADER, finish, packed
from tools.stopwatch import peak_extra_mib

SHAPES = {"text": (50, 768), "audio": (500, 74), "vision": (500, 35)}
BATCH, STEPS = 16, 12
SEED = 0


def drawn(samples: int) -> list[int]:
    """The utterances that the steps are made on."""
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(SEED))
    return order[: BATCH * (STEPS + 1)].tolist()


def of_size(path: Path, samples: int) -> dict[str, Any]:
    """Steps on batches drawn from a store of so many samples, which `sparse_store` wrote."""
    rows = drawn(samples)
    started = time.perf_counter()
    data = _dataset(StoredSamples(path))
    opened = time.perf_counter() - started
    model, optimizer = _model({m: d for m, (_, d) in SHAPES.items()})
    reading, training = [], []
    for step in range(STEPS + 1):
        started = time.perf_counter()
        batch = data.batch(rows[step * BATCH : (step + 1) * BATCH])
        read = time.perf_counter()
        _step(model, optimizer, batch)
        reading.append(read - started)
        training.append(time.perf_counter() - read)
    size, real = path.stat().st_size, path.stat().st_blocks * 512
    return {
        "samples": samples,
        "gb": round(size / 1e9, 2),
        "gb_on_disk": round(real / 1e9, 2),
        "open_ms": round(1e3 * opened, 1),
        "read_ms_a_sample": round(1e3 * statistics.median(reading[1:]) / BATCH, 3),
        "train_ms_a_sample": round(1e3 * statistics.median(training[1:]) / BATCH, 2),
    }


def of_length(tokens: int) -> dict[str, Any]:
    """Steps on samples of 50 words and so many tokens of sound and of face."""
    generator, size = torch.Generator().manual_seed(SEED), 4
    lengths = {"text": SHAPES["text"][0], "audio": tokens, "vision": tokens}
    features = {m: torch.randn(size, n, SHAPES[m][1], generator=generator) for m, n in lengths.items()}
    batch = MultimodalBatch(features, labels=torch.randn(size, generator=generator))
    model, optimizer = _model({m: d for m, (_, d) in SHAPES.items()})
    extra = peak_extra_mib(lambda: _step(model, optimizer, batch))
    times = []
    for _ in range(5):
        started = time.perf_counter()
        _step(model, optimizer, batch)
        times.append(time.perf_counter() - started)
    total = sum(lengths.values())
    return {
        "tokens": tokens,
        "tokens_a_sample": total,
        "train_us_a_token": round(1e6 * statistics.median(times) / size / total, 2),
        "extra_kib_a_token": None if extra is None else round(1024 * extra / size / total, 2),
    }


def sparse_store(path: Path, samples: int) -> None:
    """Write a store's file, whole but for holes where utterances are not drawn; checksums of zeros are made once."""
    zero = 0
    for n, d in SHAPES.values():
        zero = zlib.crc32(bytes(4 * n * d), zero)
    index = np.empty((samples + 1, len(SHAPES) + 1), "<i8")
    index[:, :-1] = np.arange(samples + 1)[:, None] * [n for n, _ in SHAPES.values()]
    index[:, -1], rows = zero, np.array(drawn(samples))
    index[rows + 1, -1] = 0
    labels = np.random.default_rng(SEED).uniform(-3, 3, samples).astype("<f4")
    names = packed("ids", [f"synthetic{i:08d}" for i in range(samples)])
    with path.open("wb") as file:
        file.seek(HEADER)
        for number, (n, d) in enumerate(SHAPES.values()):
            begin, size = file.tell(), 4 * n * d
            for i in rows.tolist():
                tokens = np.random.default_rng([SEED, number, i]).standard_normal((n, d), np.float32).tobytes()
                index[i + 1, -1] = zlib.crc32(tokens, int(index[i + 1, -1]))
                file.seek(begin + i * size)
                file.write(tokens)
            file.seek(begin + samples * size)
        widths = {m: d for m, (_, d) in SHAPES.items()}
        finish(file, widths, index, {"label": labels, **names, **packed("texts", ())})


def _dataset(samples: StoredSamples) -> Dataset:
    about = "synthetic, for measuring memory and time"
    return Dataset("growth", "train", about, about, True, "regression", 1, "mean", samples)


def _model(widths: dict[str, int]) -> tuple[AlignMamba2, torch.optim.Optimizer]:
    torch.manual_seed(SEED)
    fitting = {"modalities": widths, "task": "regression", "n_classes": 1}
    model = AlignMamba2(AlignMamba2Config.from_dict({**fitting, **Recipe.load("mini-mosi").model}))
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3)


def _step(model: AlignMamba2, optimizer: torch.optim.Optimizer, batch: MultimodalBatch) -> None:
    optimizer.zero_grad()
    model(batch).loss.backward()
    optimizer.step()
