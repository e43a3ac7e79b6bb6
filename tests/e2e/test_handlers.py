"""Every ready-made handler serves its example on real input: the folder is made, then served as it stands."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.e2e.client import once
from tests.e2e.server import ROOT, Server, serving


def made(name: str, tmp_path: Path) -> Path:
    """The model folder of an example whose weights have to be made first."""
    [script] = [path for path in (ROOT / "examples" / name).glob("*.py") if path.stem in ("make", "train")]
    subprocess.run([sys.executable, str(script), "--out", str(tmp_path / name)], check=True, timeout=100, cwd=ROOT)
    return tmp_path / name


def ask(server: Server, body: bytes, kind: str, accept: str = "application/json") -> Any:
    answer = asyncio.run(once(server.port, body, **{"Content-Type": kind, "Accept": accept}))
    assert answer.status == 200, answer.body
    return json.loads(answer.body)


def test_flowers_are_told_apart_by_their_measures(tmp_path: Path) -> None:
    from sklearn.datasets import load_iris

    flowers = load_iris()
    header = "sepal_length,sepal_width,petal_length,petal_width\n"
    table = header + "".join(",".join(map(str, row)) + "\n" for row in flowers.data)
    with serving(made("flowers", tmp_path)) as server:
        found = ask(server, table.encode(), "text/csv")
        right = [one["label"] == flowers.target_names[i] for one, i in zip(found, flowers.target, strict=True)]
        assert sum(right) / len(right) > 0.95
        answer = asyncio.run(once(server.port, table.encode(), **{"Content-Type": "text/csv", "Accept": "text/csv"}))
        assert answer.body.decode().splitlines()[0].startswith("setosa,0.9")
        answer = asyncio.run(once(server.port, b"1,2,3", **{"Content-Type": "text/csv"}))
        assert (answer.status, json.loads(answer.body)["error"]["message"]) == (
            400,
            "row 1 has 3 columns; the model takes 4",
        )


def test_colors_of_photographs_are_named(tmp_path: Path) -> None:
    from PIL import Image
    from sklearn.datasets import load_sample_images

    temple, _ = load_sample_images().images
    buffers = [io.BytesIO(), io.BytesIO()]
    Image.fromarray(temple).save(buffers[0], "JPEG")
    Image.new("RGB", (4000, 3000), (230, 20, 30)).save(buffers[1], "JPEG")
    with serving(made("colors", tmp_path)) as server:
        photograph, red = (ask(server, buffer.getvalue(), "image/jpeg") for buffer in buffers)
        assert "grey" in [one["label"] for one in photograph]
        assert red[0]["label"] == "red"
        assert red[0]["score"] > 0.9
        broken = buffers[0].getvalue()[:5000]
        answer = asyncio.run(once(server.port, broken, **{"Content-Type": "image/jpeg"}))
        assert answer.status == 400
        assert ask(server, buffers[1].getvalue(), "application/x-image") == red
