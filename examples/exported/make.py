"""Fit a line through medical data and lay it out as a model folder without code: a module that was exported.

    python examples/exported/make.py --out /tmp/exported && serving serve --model-dir /tmp/exported

With ``--torchscript`` the file is TorchScript instead. The data are scikit-learn's bundled 442 patients: ten measures,
already scaled, and how far diabetes had progressed a year later.
"""

from __future__ import annotations

import argparse
import shutil
import warnings
from pathlib import Path

import torch
from sklearn.datasets import load_diabetes
from torch import nn

HERE = Path(__file__).resolve().parent


def fitted() -> nn.Module:
    """[n, 10] measures to [n, 1]; least squares, so nothing is trained."""
    patients = load_diabetes()
    data = torch.tensor(patients.data, dtype=torch.float64)
    ones = torch.ones(len(data), 1, dtype=torch.float64)
    line = torch.linalg.lstsq(torch.cat([data, ones], 1), torch.tensor(patients.target)[:, None]).solution
    net = nn.Linear(10, 1).eval()
    net.load_state_dict({"weight": line[:-1].T.float(), "bias": line[-1].float()})
    return net


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the model folder to write")
    parser.add_argument("--torchscript", action="store_true", help="write model.pt, not model.pt2")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.torchscript:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit is old, its files are many
            torch.jit.save(torch.jit.script(fitted()), str(arguments.out / "model.pt"))
    else:
        shapes = ({0: torch.export.Dim("rows", min=1, max=1 << 20)},)  # else each request would run alone
        program = torch.export.export(fitted(), (torch.zeros(2, 10),), dynamic_shapes=shapes)
        torch.export.save(program, arguments.out / "model.pt2")
    shutil.copy(HERE / "serving.toml", arguments.out)


if __name__ == "__main__":
    main()
