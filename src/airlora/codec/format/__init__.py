"""Reading streams: the byte format and its decoder."""
