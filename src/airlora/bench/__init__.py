"""Benchmarks of policies: synthetic problems with a known optimum, and the frozen adapters of finished runs."""
