"""Encoder of streams: precision, rounding, choice of entropy tables, order of items, deltas and QAT preview.

`airlora.codec` exports its public names.
"""
