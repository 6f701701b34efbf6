"""Objectives: the loss of a rank pattern in closed form, by measuring a trained adapter, or by fine-tuning."""

from airlora.env.objectives.analytic import AnalyticObjective
from airlora.env.objectives.base import Objective
from airlora.env.objectives.frozen import FrozenObjective
from airlora.env.objectives.live import LiveObjective, Stepper

__all__ = ["AnalyticObjective", "FrozenObjective", "LiveObjective", "Objective", "Stepper"]
