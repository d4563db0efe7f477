"""Miniatures: generated data sets in the formats of the real ones."""
