"""Benchmarks of policies: problems with a known optimum, and the frozen adapters of finished runs."""
