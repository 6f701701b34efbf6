"""Comparisons, figures and reports."""

from airlora.experiments.bench_frozen import FROZEN_POLICIES, frozen_table, run_frozen_bench, summarise_frozen
from airlora.experiments.bench_problems import PROBLEMS, BenchProblem
from airlora.experiments.bench_report import bench_findings, bench_tables, regret_figure, write_bench_report
from airlora.experiments.compare import ComparisonRow, compare_policies, row_of
from airlora.experiments.curve import run_curve
from airlora.experiments.curve_plan import CURVE_METHODS, CurvePlan, CurvePoint
from airlora.experiments.curve_report import (
    CurveRow,
    curve_findings,
    curve_results,
    curve_table,
    summarise_curve,
    write_curve_report,
)
from airlora.experiments.curve_saving import Saving, byte_saving
from airlora.experiments.delivery import DEMO_LINKS, DeviceOutcome, deliver, delivery_table
from airlora.experiments.demo import DemoResult, demo_settings, run_demo
from airlora.experiments.imports import import_peft
from airlora.experiments.inspection import evaluate_run, inspect_run
from airlora.experiments.link_plan import LinkPlan, PlannedPayload, plan_link
from airlora.experiments.plan_figure import plan_figure
from airlora.experiments.policy_bench import BENCH_POLICIES, BenchPlan, BenchRecord, run_bench, summarise
from airlora.experiments.releases import measure_cuts, prepare_release
from airlora.experiments.report import write_report
from airlora.experiments.streams import export_adapter, pack_run, parse_size, unpack_stream
from airlora.experiments.tables import comparison_table, rank_table

__all__ = [
    "BENCH_POLICIES",
    "CURVE_METHODS",
    "DEMO_LINKS",
    "FROZEN_POLICIES",
    "PROBLEMS",
    "BenchPlan",
    "BenchProblem",
    "BenchRecord",
    "ComparisonRow",
    "CurvePlan",
    "CurvePoint",
    "CurveRow",
    "DemoResult",
    "DeviceOutcome",
    "LinkPlan",
    "PlannedPayload",
    "Saving",
    "bench_findings",
    "bench_tables",
    "byte_saving",
    "compare_policies",
    "comparison_table",
    "curve_findings",
    "curve_results",
    "curve_table",
    "deliver",
    "delivery_table",
    "demo_settings",
    "evaluate_run",
    "export_adapter",
    "frozen_table",
    "import_peft",
    "inspect_run",
    "measure_cuts",
    "pack_run",
    "parse_size",
    "plan_figure",
    "plan_link",
    "prepare_release",
    "rank_table",
    "regret_figure",
    "row_of",
    "run_bench",
    "run_curve",
    "run_demo",
    "run_frozen_bench",
    "summarise",
    "summarise_curve",
    "summarise_frozen",
    "unpack_stream",
    "write_bench_report",
    "write_curve_report",
    "write_report",
]
