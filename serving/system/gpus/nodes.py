"""Nodes: GPUs counted by their device nodes, for machines without NVML. Nothing can be measured."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from serving.system.gpus.driver import Gpu, Xid
from serving.system.gpus.visible import chosen

NODE = re.compile("nvidia([0-9]+)")


class Nodes:
    """A driver by device nodes. ``visible`` is the value of ``CUDA_VISIBLE_DEVICES``. UUIDs in it cannot be looked up
    and are taken as they are.
    """

    def __init__(self, visible: str | None, folder: Path = Path("/dev")) -> None:
        matches = [NODE.fullmatch(path.name) for path in folder.glob("nvidia[0-9]*")]
        numbers = sorted(int(match[1]) for match in matches if match is not None)
        words = [] if visible is None else [word.strip() for word in visible.split(",")]
        if numbers and words and all(word.startswith(("GPU-", "MIG-")) for word in words):
            ids = words
        else:
            # A container may have only some of the nodes; CUDA counts those that are there.
            ids = [str(at) for at in chosen(visible, [(at, "") for at in range(len(numbers))])]
        self._gpus = [Gpu(f"cuda:{index}", id) for index, id in enumerate(ids)]

    def gpus(self) -> list[Gpu]:
        return list(self._gpus)

    def held(self, gpu: str) -> Mapping[int, int] | None:
        return None

    def utilisation(self, gpu: str) -> int | None:
        return None

    def xids(self) -> list[Xid]:
        return []

    def close(self) -> None:
        return None
