"""Fuzz targets are programs, not tests: pytest does not import them."""

collect_ignore_glob = ["fuzz_*.py"]
