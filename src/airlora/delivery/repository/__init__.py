"""Repositories of signed releases, trusted through The Update Framework."""
