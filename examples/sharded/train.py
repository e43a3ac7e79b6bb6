"""Writes weights.pt: random ones, since this example is about where they are.

python examples/sharded/train.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent / "code"))

from inference import stack

if __name__ == "__main__":
    torch.manual_seed(0)
    torch.save(stack().state_dict(), Path(sys.argv[1]) / "weights.pt")
