"""Base classes and field types of settings."""
