"""Shows whether the token-level credit signals of a LoRA RL run have collapsed.

From Python, without a model or a trainer's callback: `run_gate(report, policy)` holds a report to
a policy, `load_policy()` reads the working directory's, `load_report(folder)` a saved result.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

#: Public name -> the module that has it, loaded when it is asked for.
_PUBLIC = {
    "load_policy": "arca_diag.gating",
    "load_report": "arca_diag.gating",
    "run_gate": "arca_diag.gating",
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
