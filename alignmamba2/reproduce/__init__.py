"""`python -m alignmamba2 reproduce`: train, compare and report; what is finished is never done again."""

from .page import write_page
from .plan import BENCHMARKS, Benchmark, benchmark_names
from .runs import reproduce

__all__ = ["BENCHMARKS", "Benchmark", "benchmark_names", "reproduce", "write_page"]
