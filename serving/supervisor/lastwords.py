"""Last words: the reason why a server cannot serve, as the last line that it prints."""

from __future__ import annotations

import contextlib
import os
import sys

from serving.system import log


def cannot_serve(why: str) -> None:
    """Log the reason. It is also printed to standard error, unless that is the same stream as the log, for readers of
    it alone.
    """
    log.error(f"cannot serve: {why}")
    with contextlib.suppress(OSError, ValueError):  # standard error may be closed
        if not is_one_stream():
            print(f"serving: cannot serve: {why}", file=sys.stderr, flush=True)


def is_one_stream() -> bool:
    return os.path.samestat(os.fstat(1), os.fstat(2))
