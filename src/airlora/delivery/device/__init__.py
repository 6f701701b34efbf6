"""The device: fetch, verify, install and roll back releases."""
