"""Comparisons, statistics, figures, tables and HTML reports."""
