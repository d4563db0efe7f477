"""Whole files: written completely or not at all, checked when they are read."""
