"""On the device: fetch a release over a weak link, verify it, install it without a torn state, go back if it fails.

`visit` does one round of it; `StateFolder` holds two slots and the switch between them.  `attach` lets a model in this
process follow the device's state; it alone needs torch, and is loaded when it is asked for.
"""

from typing import TYPE_CHECKING, Any

from airlora.edge.agent import visit
from airlora.edge.decide import Wish
from airlora.edge.health import AccuracyProbe, HealthCheck, HealthUnknownError, command_check, numbers_check
from airlora.edge.limits import Clock, LinkLimits
from airlora.edge.link import HttpLink
from airlora.edge.plan import AgentPlan, Visit
from airlora.edge.rollback import rollback
from airlora.edge.state import DeviceState, Installed, StateFolder

if TYPE_CHECKING:
    from airlora.edge.runtime import Attached, attach

__all__ = [
    "AccuracyProbe",
    "AgentPlan",
    "Attached",
    "Clock",
    "DeviceState",
    "HealthCheck",
    "HealthUnknownError",
    "HttpLink",
    "Installed",
    "LinkLimits",
    "StateFolder",
    "Visit",
    "Wish",
    "attach",
    "command_check",
    "numbers_check",
    "rollback",
    "visit",
]


def __getattr__(name: str) -> Any:
    if name in ("Attached", "attach"):
        from airlora.edge import runtime

        return getattr(runtime, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
