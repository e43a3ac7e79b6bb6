"""Interpreter: the start of another Python without the working folder on its path, where any file could shadow a
module.
"""

from __future__ import annotations

import sys
from pathlib import Path

# The folder of this package, added last to the path, for a package that runs from its sources without installation.
ROOT = Path(__file__).parent.parent.parent
RUN = (
    "import sys; root, module = sys.argv[1:3]; del sys.argv[1:3]; root in sys.path or sys.path.append(root); "
    "import runpy; runpy.run_module(module, run_name='__main__', alter_sys=True)"
)


def command(module: str, *arguments: str) -> list[str]:
    """Return the command line for ``python -P -m module arguments``."""
    return [sys.executable, "-P", "-c", RUN, str(ROOT), module, *arguments]
