"""Experiments: seeds, ablations and baselines on the same protocol; what is finished is never done again."""

from .plan import BENCHMARKS, Benchmark, benchmark_names
from .reproduction import reproduce
from .runs import (
    ABLATIONS,
    evaluate_folders,
    provenance,
    run_ablations,
    run_seeds,
    stored_results,
    table,
    write_results,
)

__all__ = [
    "ABLATIONS",
    "BENCHMARKS",
    "Benchmark",
    "benchmark_names",
    "evaluate_folders",
    "provenance",
    "reproduce",
    "run_ablations",
    "run_seeds",
    "stored_results",
    "table",
    "write_results",
]
