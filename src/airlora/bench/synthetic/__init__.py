"""Synthetic objectives whose optimum is known by dynamic programming."""
