"""On the device: fetch a release over a weak link, verify it, install it without a torn state, go back if it fails.

`visit` does one round of it; `StateFolder` holds two slots and the switch between them.
"""

from airlora.edge.agent import AgentPlan, Visit, rollback, visit
from airlora.edge.decide import Wish
from airlora.edge.health import HealthCheck, command_check, numbers_check
from airlora.edge.link import Clock, HttpLink, LinkLimits
from airlora.edge.state import DeviceState, Installed, StateFolder

__all__ = [
    "AgentPlan",
    "Clock",
    "DeviceState",
    "HealthCheck",
    "HttpLink",
    "Installed",
    "LinkLimits",
    "StateFolder",
    "Visit",
    "Wish",
    "command_check",
    "numbers_check",
    "rollback",
    "visit",
]
