"""File formats of the published data sets, one module per format."""
