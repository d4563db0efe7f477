"""What builds and checks the project: notebooks, pages, gallery, report; ``python -m tools NAME``."""
