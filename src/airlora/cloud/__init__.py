"""Serving a repository: files with ranges, devices' reports, staged rollout, health and metrics.

Nothing of it is needed to hand releases out: any static server does that.
"""

from airlora.cloud.app import ServerPlan, make_app, verify_repository_folder
from airlora.cloud.gate import Tokens, parse_rate
from airlora.cloud.reports import DeviceReport, ReportStore
from airlora.cloud.rollout import Rollout

__all__ = [
    "DeviceReport",
    "ReportStore",
    "Rollout",
    "ServerPlan",
    "Tokens",
    "make_app",
    "parse_rate",
    "verify_repository_folder",
]
