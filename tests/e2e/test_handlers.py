"""Every ready-made handler serves its example on real input: the folder is made, then served as it stands."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
import urllib.request
import wave
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.e2e.client import once
from tests.e2e.server import ROOT, Server, serving


def made(name: str, tmp_path: Path, *words: str) -> Path:
    """The model folder of an example whose weights have to be made first."""
    [script] = [path for path in (ROOT / "examples" / name).glob("*.py") if path.stem in ("make", "train")]
    command = [sys.executable, str(script), "--out", str(tmp_path / name), *words]
    subprocess.run(command, check=True, timeout=100, cwd=ROOT)
    return tmp_path / name


def ask(server: Server, body: bytes, kind: str, accept: str = "application/json") -> Any:
    answer = asyncio.run(once(server.port, body, **{"Content-Type": kind, "Accept": accept}))
    assert answer.status == 200, answer.body
    return json.loads(answer.body)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["model.pt2", "model.pt"])
def test_an_exported_module_is_served_without_code(tmp_path: Path, form: str) -> None:
    from sklearn.datasets import load_diabetes

    patients = load_diabetes()
    folder = made("exported", tmp_path, *(["--torchscript"] if form == "model.pt" else []))
    assert (folder / form).is_file()
    with serving(folder) as server:
        table = "".join(",".join(map(str, row)) + "\n" for row in patients.data)
        found = np.array(ask(server, table.encode(), "text/csv"))[:, 0]
        error = ((found - patients.target) ** 2).mean() / patients.target.var()
        assert error == pytest.approx(1 - 0.5177, abs=1e-3)  # as the best line has it
        rows = patients.data[:2].tolist()
        assert ask(server, json.dumps({"instances": rows}).encode(), "application/json") == [
            pytest.approx([value], rel=1e-5) for value in found[:2]
        ]


@pytest.mark.slow
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


@pytest.mark.slow
def test_sounds_are_told_apart_whatever_they_were_recorded_with(tmp_path: Path) -> None:
    times = np.arange(44100) / 44100
    tone = np.sin(2 * np.pi * 440 * times) * 0.5
    noise = np.random.default_rng(0).normal(0, 0.2, len(times)).clip(-1, 1)
    with serving(made("sounds", tmp_path)) as server:
        for name, sound in (("tone", tone), ("noise", noise), ("silence", tone * 0)):
            buffer = io.BytesIO()
            with wave.open(buffer, "wb") as file:
                file.setnchannels(2)
                file.setsampwidth(2)
                file.setframerate(44100)
                file.writeframes((np.stack([sound, sound], 1) * 32767).astype("<i2").tobytes())
            assert ask(server, buffer.getvalue(), "audio/wav")[0]["label"] == name
        answer = asyncio.run(once(server.port, b"RIFFxxxxWAVE", **{"Content-Type": "audio/wav"}))
        assert answer.status == 400


def test_things_are_found_in_pictures_of_any_size(tmp_path: Path) -> None:
    from PIL import Image, ImageDraw

    with serving(made("blobs", tmp_path)) as server:
        for size in ((300, 200), (64, 480)):
            image = Image.new("RGB", size, (30, 30, 30))
            ImageDraw.Draw(image).rectangle((10, 20, 49, 59), (250, 10, 10))
            ImageDraw.Draw(image).ellipse((15, 100, 55, 140), (10, 10, 250))
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            red, blue = ask(server, buffer.getvalue(), "image/png")
            assert (red["label"], red["box"], red["score"]) == ("red", [10, 20, 50, 60], 1.0)
            assert (blue["label"], blue["box"]) == ("blue", [15, 100, 56, 141])
            assert blue["score"] == pytest.approx(3.14159 / 4, abs=0.03)


TEXT = pytest.mark.skipif(find_spec("transformers") is None, reason="handlers of texts need serving[text]")


@TEXT
@pytest.mark.slow
def test_moods_of_sentences_are_told(tmp_path: Path) -> None:
    with serving(made("moods", tmp_path)) as server:
        assert ask(server, b"what a lovely sunny day", "text/plain")["label"] == "glad"
        found = ask(
            server, b'{"inputs": ["the dog was cruel", "so kind and warm", "a gloomy story"]}', "application/json"
        )
        assert [one["label"] for one in found] == ["sad", "glad", "sad"]
        answer = asyncio.run(once(server.port, b"[1, 2]"))
        assert answer.status == 400


@TEXT
@pytest.mark.slow
def test_vectors_of_texts_that_share_words_are_near(tmp_path: Path) -> None:
    with serving(made("vectors", tmp_path)) as server:
        cat, dog, train = ask(server, b'["the cat sat on the mat", "the dog sat on the mat", "train station"]', "")
        near, far = (sum(a * b for a, b in zip(cat, other, strict=True)) for other in (dog, train))
        assert far < near <= 1
        wish = {"model": "vectors", "input": "the cat sat on the mat"}
        answer = post(server, "/v1/embeddings", wish)
        assert answer["data"][0]["embedding"] == pytest.approx(cat, abs=1e-4)


@TEXT
@pytest.mark.slow
def test_the_writer_writes_in_every_form_and_for_many_at_a_time(tmp_path: Path) -> None:
    rhyme = "little star how i wonder what you are up above the world so high like a diamond in the sky"
    with serving(made("writer", tmp_path)) as server:
        wish = {"prompt": "twinkle twinkle", "temperature": 0, "max_tokens": 20}
        whole = post(server, "/invocations", wish)
        assert (whole["text"].strip(), whole["finish_reason"]) == (rhyme, "length")
        assert send(server, "/invocations", wish, Accept="text/plain")[1].decode().strip() == rhyme
        _, lines = send(server, "/invocations", wish, Accept="application/jsonlines")
        records = [json.loads(line) for line in lines.splitlines()]
        assert "".join(one["text"] for one in records).strip() == rhyme
        assert records[-1]["usage"] == {"prompt_tokens": 2, "completion_tokens": 20, "total_tokens": 22}

        with ThreadPoolExecutor(16) as pool:
            wishes = [{**wish, "max_tokens": count} for count in range(1, 17)]
            answers = list(pool.map(lambda one: post(server, "/invocations", one)["text"].strip(), wishes))
        assert answers == [" ".join(rhyme.split()[:count]) for count in range(1, 17)]
        answer = asyncio.run(once(server.port, json.dumps({**wish, "beams": 4}).encode()))
        assert (answer.status, b"beams is not supported" in answer.body) == (400, True)


@TEXT
@pytest.mark.slow
def test_the_writer_chats_as_clients_of_openai_expect(tmp_path: Path) -> None:
    with serving(made("writer", tmp_path)) as server:
        wish = {"model": "writer", "messages": [{"role": "user", "content": "sing"}], "seed": 5, "max_tokens": 12}
        whole = post(server, "/v1/chat/completions", wish)
        assert (whole["object"], whole["model"]) == ("chat.completion", "writer")
        more = {"stream": True, "stream_options": {"include_usage": True}}
        kind, body = send(server, "/v1/chat/completions", {**wish, **more}, Accept="application/json")
        assert kind == "text/event-stream"
        events = [line[6:].strip() for line in body.splitlines() if line.startswith(b"data: ")]
        assert events[-1] == b"[DONE]"
        chunks = [json.loads(one) for one in events[:-1]]
        assert chunks[-1]["usage"] == whole["usage"]
        deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
        assert deltas[0]["role"] == "assistant"
        assert "".join(one.get("content", "") for one in deltas) == whole["choices"][0]["message"]["content"]


def send(server: Server, path: str, body: dict[str, Any], **headers: str) -> tuple[str, bytes]:
    """Content type and body of an answer, in pieces or not."""
    headers = {"Content-Type": "application/json", **headers}
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return str(answer.headers["content-type"]), answer.read()


def post(server: Server, path: str, body: dict[str, Any]) -> Any:
    return json.loads(send(server, path, body)[1])
