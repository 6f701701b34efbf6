from .analytic import AnalyticObjective as AnalyticObjective
from .base import Objective as Objective
from .frozen import FrozenObjective as FrozenObjective
from .live import LiveObjective as LiveObjective
from .live import Stepper as Stepper
