"""A handler that takes its time to close."""

from __future__ import annotations

import time
from typing import Any

from serving import Handler


class Lingerer(Handler):
    def predict(self, batch: Any) -> Any:
        return batch

    def close(self) -> None:
        time.sleep(2.5)
        print("closed")
