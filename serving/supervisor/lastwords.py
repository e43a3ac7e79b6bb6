"""Last words: why a server cannot serve, as the last line of what it says."""

from __future__ import annotations

import contextlib
import os
import sys

from serving.system import log


def cannot_serve(why: str) -> None:
    """For the log and, where that is not what standard error goes to as well, for who reads that alone."""
    log.error(f"cannot serve: {why}")
    with contextlib.suppress(OSError, ValueError):  # it may be closed
        if not is_one_stream():
            print(f"serving: cannot serve: {why}", file=sys.stderr, flush=True)


def is_one_stream() -> bool:
    return os.path.samestat(os.fstat(1), os.fstat(2))
