"""How we start another Python: without the working folder, where any file could stand for a module of its name."""

from __future__ import annotations

import sys
from pathlib import Path

# Where this package is; last in the order of imports, for one that runs from its sources and is not installed.
ROOT = Path(__file__).parent.parent.parent
RUN = (
    "import sys; root, module = sys.argv[1:3]; del sys.argv[1:3]; root in sys.path or sys.path.append(root); "
    "import runpy; runpy.run_module(module, run_name='__main__', alter_sys=True)"
)


def command(module: str, *arguments: str) -> list[str]:
    """The command line of ``python -P -m module arguments``."""
    return [sys.executable, "-P", "-c", RUN, str(ROOT), module, *arguments]
