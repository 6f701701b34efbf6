"""Simulated transports and links for tests and experiments."""
