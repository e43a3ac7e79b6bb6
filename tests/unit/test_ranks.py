"""What rank 0 makes of another one that is gone."""

from __future__ import annotations

import subprocess
import sys

import pytest

from serving.worker.loading.ranks import EXIT_RANK

SCRIPT = """
import socket, sys
from pathlib import Path
from serving.worker.loading import ranks
ranks.STEP = 0.05
ours, theirs = socket.socketpair()
group = ranks.Group([ours], [], Path("none"))
if sys.argv[1] == "reset":
    ours.sendall(b"x")
theirs.close()
try:
    group._send_head(b"head") if sys.argv[1] == "send" else group._receive_results(None)
except BaseException:
    sys.exit(1)
"""


@pytest.mark.parametrize("when", ["send", "receive", "reset"])
def test_a_rank_whose_socket_is_closed_ends_the_worker_before_a_client_hears_of_it(when: str) -> None:
    """How it ended is known a little later, from its exit code; until then no answer is made up."""
    assert subprocess.run([sys.executable, "-c", SCRIPT, when], timeout=30, check=False).returncode == EXIT_RANK
