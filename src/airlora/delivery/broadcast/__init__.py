"""Broadcast of releases as signed RaptorQ symbols over UDP."""
