"""Side-by-side measurements against peers: ``python -m alignmamba2 bench NAME``."""
