"""The version of airlora."""

__version__ = "0.1.0"
