from .exporting import PeftExport as PeftExport
from .exporting import export_peft as export_peft
from .exporting import export_uniform as export_uniform
from .importing import PeftAdapter as PeftAdapter
from .importing import PeftRequirements as PeftRequirements
from .importing import load_peft as load_peft
from .importing import peft_requirements as peft_requirements
from .importing import read_peft as read_peft
