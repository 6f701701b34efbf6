"""Writing streams: precision, rounding, entropy coding and order."""
