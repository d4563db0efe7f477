"""Experiments: seeds, ablations and baselines on the same protocol; what is finished is never done again."""

from .benchmarks import ABLATIONS, BENCHMARKS, Benchmark, benchmark_names
from .reproduction import reproduce
from .results import comparison, provenance, summary_of, table, write_results
from .search import grid, ranked, search
from .seeds import evaluate_folders, results, run_name, run_seeds, run_variants
