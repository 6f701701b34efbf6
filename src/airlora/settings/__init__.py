"""Base class and field types of settings, and their reading from TOML files and the command line.

The package knows no other package of airlora but `files` and `errors`. Each package defines its own section, and
`airlora.training.settings` composes them.
"""
