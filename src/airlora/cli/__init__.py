"""The command line: parse, call one function, print."""

# ruff: noqa: I001 (help lists commands in the order in which they are imported)
from airlora.cli import runs
from airlora.cli import policies
from airlora.cli import plan
from airlora.cli import streams
from airlora.cli import curve
from airlora.cli import releases
from airlora.cli import serve
from airlora.cli import edge
from airlora.cli import broadcast
from airlora.cli.app import app, main

__all__ = ["app", "broadcast", "curve", "edge", "main", "plan", "policies", "releases", "runs", "serve", "streams"]
