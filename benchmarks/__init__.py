"""Measurements beside peers: ``python -m benchmarks NAME``; each writes its results file."""
