"""Train the demo model in seconds and lay it out as a model folder.

    python examples/digits/train.py --out .demo/model
    python examples/digits/train.py --out .demo/model --picture examples/digit.png

The data are scikit-learn's bundled 1797 digits of 8x8 pixels. A quarter of them, equally many of each digit, is held
out of training.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import sklearn
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn.functional import cross_entropy

HERE = Path(__file__).resolve().parent
HANDLER = HERE / "code" / "digits.py"
SETTINGS = HERE / "serving.toml"
sys.path.insert(0, str(HANDLER.parent))

from digits import Net  # noqa: E402  the model's own code, found as the server finds it

REQUIRED_ACCURACY = 0.97
EPOCHS = 30
BATCH = 64
SEED = 0
PICTURED = 3
PICTURE_SIZE = 64  # pixels; a multiple of 8, so that shrinking it gives the 64 values back
MARKER = ".trained"


class Part(NamedTuple):
    """``images`` [n, 1, 8, 8] float32 0 … 1, ``labels`` [n] int64."""

    images: Tensor
    labels: Tensor


def split() -> tuple[Part, Part]:
    """The digits to train on and those held out, always the same."""
    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)[:, None]
    parts = train_test_split(images, digits.target, test_size=0.25, stratify=digits.target, random_state=SEED)
    train_images, test_images, train_labels, test_labels = (torch.from_numpy(part) for part in parts)
    return Part(train_images, train_labels), Part(test_images, test_labels)


def train(part: Part) -> Net:
    torch.manual_seed(SEED)
    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(EPOCHS):
        order = torch.randperm(len(part.labels))
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            optimizer.zero_grad()
            torch.autograd.backward(cross_entropy(net(part.images[chosen]), part.labels[chosen]))
            optimizer.step()
    return net.eval()


def measure(net: Net, part: Part) -> float:
    """The share of right answers, 0 … 1."""
    with torch.inference_mode():
        return float((net(part.images).argmax(-1) == part.labels).float().mean())


def fingerprint() -> str:
    """Changes with everything that decides what is trained."""
    versions = f"{torch.__version__} {sklearn.__version__}".encode()
    return hashlib.sha256(
        b"\0".join([*(path.read_bytes() for path in (Path(__file__), HANDLER, SETTINGS)), versions])
    ).hexdigest()


def trained_accuracy(out: Path) -> float | None:
    """The accuracy of the model in ``out`` if this very code trained it."""
    try:
        marker = json.loads((out / MARKER).read_text())
    except (OSError, ValueError):
        return None
    return float(marker["accuracy"]) if marker["fingerprint"] == fingerprint() else None


def write_model(folder: Path, net: Net, accuracy: float) -> None:
    (folder / "code").mkdir()
    shutil.copy(HANDLER, folder / "code")
    shutil.copy(SETTINGS, folder)
    torch.save(net.state_dict(), folder / "weights.pt")
    draw(folder / "sample.png")
    (folder / MARKER).write_text(json.dumps({"fingerprint": fingerprint(), "accuracy": accuracy}))


def publish(out: Path, net: Net, accuracy: float) -> None:
    """Put the model folder at ``out``; a server that looks there finds all of it, old or new, or nothing."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        fresh = Path(scratch, "new")
        fresh.mkdir()
        write_model(fresh, net, accuracy)
        if out.exists():
            # A folder cannot be renamed onto one that is not empty.
            os.rename(out, Path(scratch, "old"))
        os.rename(fresh, out)


def draw(path: Path) -> None:
    """A held-out digit as a greyscale PNG, enlarged so that people can see its pixels."""
    _, held_out = split()
    image = held_out.images[int((held_out.labels == PICTURED).nonzero()[0])][0]
    pixels = (image * 255).round().to(torch.uint8).numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).resize((PICTURE_SIZE, PICTURE_SIZE), Image.Resampling.NEAREST).save(path)


def build(out: Path, force: bool) -> str:
    """Train unless ``out`` holds this model already. Gives the line to print; raises SystemExit if it is no good."""
    known = None if force else trained_accuracy(out)
    if known is not None:
        # make compares the times of files.
        (out / MARKER).touch()
        return f"{out} is up to date: accuracy {known:.4f} on held-out digits"
    started = time.monotonic()
    training, held_out = split()
    net = train(training)
    accuracy = measure(net, held_out)
    if accuracy < REQUIRED_ACCURACY:
        raise SystemExit(f"accuracy {accuracy:.4f} is below {REQUIRED_ACCURACY}")
    publish(out, net, accuracy)
    seconds = time.monotonic() - started
    return f"trained {out} in {seconds:.1f} s: accuracy {accuracy:.4f} on {len(held_out.labels)} held-out digits"


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the demo model: handwritten digits.")
    parser.add_argument("--out", type=Path, required=True, help="the model folder to write")
    parser.add_argument("--force", action="store_true", help="train even if the folder is up to date")
    parser.add_argument("--picture", type=Path, help="also write a held-out digit as PNG")
    options = parser.parse_args()
    # So small a net gains nothing from a second thread, and one thread adds up in the same order everywhere.
    torch.set_num_threads(1)
    print(build(options.out, options.force))
    if options.picture:
        draw(options.picture)


if __name__ == "__main__":
    main()
