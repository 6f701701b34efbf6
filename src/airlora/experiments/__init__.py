"""Comparisons, figures and reports."""

from airlora.experiments.compare import ComparisonRow, compare_policies, row_of
from airlora.experiments.demo import DemoResult, demo_settings, run_demo
from airlora.experiments.inspection import evaluate_run, inspect_run
from airlora.experiments.report import write_report
from airlora.experiments.tables import comparison_table, rank_table

__all__ = [
    "ComparisonRow",
    "DemoResult",
    "compare_policies",
    "comparison_table",
    "demo_settings",
    "evaluate_run",
    "inspect_run",
    "rank_table",
    "row_of",
    "run_demo",
    "write_report",
]
