"""A network cut over ranks, which does what the request says: ``{"do": …, "n": …}``."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from serving import BatchPolicy, Handler, Request

DO = ("", "hang", "raise", "raise-other", "odd", "crash-other", "assert-other")


class Ranked(Handler):
    """Rank r holds the r-th part of the numbers 0 … 99; the answer is n times their sum, and every rank's pid."""

    policy = BatchPolicy(max_size=4)

    def load(self, model_dir: Path, device: str) -> None:
        self.device = device
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.part = torch.arange(100.0)[self.rank :: self.size].to(device)

    def decode(self, request: Request) -> dict[str, Any]:
        found: dict[str, Any] = super().decode(request)
        return found

    def collate(self, samples: Any) -> Any:
        if samples[0].get("do") == "odd":
            return object()
        return {
            "n": torch.tensor([float(one.get("n", 0)) for one in samples]),
            "do": torch.tensor([DO.index(one.get("do", "")) for one in samples]),
        }

    def predict(self, batch: Any) -> list[dict[str, Any]]:
        wanted = {DO[int(one)] for one in batch["do"]}
        if "hang" in wanted:
            time.sleep(3600)
        if "raise" in wanted or ("raise-other" in wanted and self.rank == 1):
            raise ValueError("as asked")
        if "assert-other" in wanted and self.rank == 1:
            error = torch.AcceleratorError("as a kernel's assert shows")
            error.error_code = 710
            raise error
        if "crash-other" in wanted and self.rank == 1:
            os._exit(9)
        found: Tensor = batch["n"] * self.part.sum()
        pids = torch.zeros(self.size, dtype=torch.int64)
        pids[self.rank] = os.getpid()
        if "raise-other" not in wanted:
            dist.all_reduce(found)
            dist.all_reduce(pids)
        return [{"sum": float(one), "pids": pids.tolist()} for one in found]
