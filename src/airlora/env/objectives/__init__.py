"""What a rank pattern is worth: closed forms, a trained adapter, or fine-tuning itself."""

from airlora.env.objectives.analytic import AnalyticObjective
from airlora.env.objectives.base import Objective
from airlora.env.objectives.frozen import FrozenObjective
from airlora.env.objectives.live import LiveObjective, Stepper

__all__ = ["AnalyticObjective", "FrozenObjective", "LiveObjective", "Objective", "Stepper"]
