"""Studies: what the method finds in data whose truth is known; ``python -m studies NAME``."""
