"""Whole files and one token store: written completely or not at all, checked when they are read."""
