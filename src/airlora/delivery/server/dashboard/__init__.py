"""The dashboard of the server."""
