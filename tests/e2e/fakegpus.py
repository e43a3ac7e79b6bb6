"""``python -m tests.e2e.fakegpus``: the server on a machine with two GPUs, which are numbers in memory.

Whatever a test reports of them goes through a pipe of ours: lines ``gpu code`` on standard input.
"""

from __future__ import annotations

import os
import sys
import threading

from serving.config.config import load
from serving.supervisor.main import main
from serving.system.gpus.fake import FakeGpus

GPUS = (16 << 30, 16 << 30)


def follow(driver: FakeGpus) -> None:
    for line in sys.stdin:
        gpu, code = line.split()
        driver.report(gpu, int(code))


if __name__ == "__main__":
    driver = FakeGpus(*GPUS)
    threading.Thread(target=follow, args=(driver,), daemon=True).start()
    sys.exit(main(load(os.environ), driver))
