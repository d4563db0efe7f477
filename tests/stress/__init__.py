"""Stress: hostile files, killed runs, a real browser, a newcomer; ``python -m tests.stress NAME``."""
