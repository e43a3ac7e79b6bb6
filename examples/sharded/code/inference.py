"""A stack of linear layers, each of which is cut in two: tensor parallel, by torch's own DTensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from serving import BadRequest, Handler, Request, load_weights

WIDTH, DEPTH = 64, 4


def stack() -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(DEPTH):
        layers += [nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)]
    return nn.Sequential(*layers)


class Sharded(Handler):
    def load(self, model_dir: Path, device: str) -> None:
        self.device = device
        module = stack()
        # Mapped, not read: what a rank does not keep it need never touch.
        module.load_state_dict(load_weights(model_dir / "weights.pt"), assign=True)
        mesh = init_device_mesh(device.partition(":")[0], (dist.get_world_size(),))
        # A pair of layers needs one exchange: the first one's outputs stay where they are made.
        plan: dict[str, Any] = {}
        for first in range(0, 3 * DEPTH, 3):
            plan |= {str(first): ColwiseParallel(), str(first + 2): RowwiseParallel()}
        self.module = parallelize_module(module.eval(), mesh, plan)

    def decode(self, request: Request) -> Tensor:
        row = torch.tensor(super().decode(request)).float()
        if row.shape != (WIDTH,):
            raise BadRequest(f"a row of {WIDTH} numbers is expected")
        return row

    def predict(self, batch: Tensor) -> Tensor:
        found: Tensor = self.module(batch)
        return found

    def warmup(self) -> None:
        self.predict(torch.zeros(1, WIDTH, device=self.device))
