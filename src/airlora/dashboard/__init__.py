"""A page over a served repository: releases, devices, rollout, live; read only."""

from airlora.dashboard.overview import Overview, read_overview
from airlora.dashboard.pages import dashboard_routes

__all__ = ["Overview", "dashboard_routes", "read_overview"]
