"""Comparisons, statistics, figures, tables and HTML pages."""
