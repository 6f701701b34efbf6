"""Exchange of adapters with PEFT and loaders of its format, such as vLLM and llama.cpp."""

from airlora.adapters.peft.exporting import PeftExport, export_peft, export_uniform
from airlora.adapters.peft.importing import PeftAdapter, PeftRequirements, load_peft, peft_requirements, read_peft

__all__ = [
    "PeftAdapter",
    "PeftExport",
    "PeftRequirements",
    "export_peft",
    "export_uniform",
    "load_peft",
    "peft_requirements",
    "read_peft",
]
