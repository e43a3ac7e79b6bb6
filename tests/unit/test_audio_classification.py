"""Recordings of every width, rate and number of channels are the same sound."""

from __future__ import annotations

import contextlib
import io
import json
import struct
import warnings
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from handlers.audio_classification import AudioClassificationHandler
from handlers.sounds import read_wav, resample
from serving import BadRequest, Request, UnsupportedMediaType
from serving.errors import ModelError
from serving.request import Response
from serving.testing import Client

PLAIN = {"rate": 1000, "seconds": 0.1, "outputs": "probabilities", "topk": 2}
SINE = np.sin(2 * np.pi * 5 * np.arange(1000) / 1000) * 0.5  # one second of 5 Hz


class Loud(nn.Module):
    """[n, samples] to [n, 2]: the mean of what is above, and of what is below zero."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x.clamp(min=0).mean(1), -x.clamp(max=0).mean(1)], 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit is old, its files are many
        torch.jit.save(torch.jit.script(Loud()), str(tmp_path / "model.pt"))
    (tmp_path / "labels.txt").write_text("above\nbelow\n")
    return tmp_path


def wav(tag: int, bits: int, data: bytes, channels: int = 1, rate: int = 1000, extra: bytes = b"") -> bytes:
    frame = channels * bits // 8
    head = struct.pack("<HHIIHH", tag, channels, rate, rate * frame, frame, bits) + extra
    chunks = [(b"fmt ", head), (b"LIST", b"odd"), (b"data", data)]
    body = b"".join(name + struct.pack("<I", len(chunk)) + chunk + b"\0" * (len(chunk) % 2) for name, chunk in chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WAVE" + body


def integers(bits: int) -> bytes:
    values = np.round(SINE * (2 ** (bits - 1) - 1)).astype("<i4")
    if bits == 8:
        return (values + 128).astype(np.uint8).tobytes()
    return values.view(np.uint8).reshape(-1, 4)[:, : bits // 8].tobytes()


EXTENSIBLE = struct.pack("<HHIH14x", 22, 24, 0, 1)


@pytest.mark.parametrize(
    ("body", "tolerance"),
    [
        (wav(1, 8, integers(8)), 1e-2),
        (wav(1, 16, integers(16)), 1e-4),
        (wav(1, 24, integers(24)), 1e-6),
        (wav(1, 32, integers(32)), 1e-6),
        (wav(3, 32, SINE.astype("<f4").tobytes()), 1e-6),
        (wav(3, 64, SINE.astype("<f8").tobytes()), 1e-6),
        (wav(0xFFFE, 24, integers(24), extra=EXTENSIBLE), 1e-6),
        (wav(1, 16, np.repeat(np.frombuffer(integers(16), "<i2"), 2).tobytes(), channels=2), 1e-4),
    ],
)
def test_every_width_is_read(body: bytes, tolerance: float) -> None:
    sound = read_wav(body)
    assert (sound.rate, sound.samples.dtype) == (1000, np.float32)
    assert np.abs(sound.samples - SINE).max() < tolerance


def test_what_the_standard_library_writes_is_read() -> None:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, 1000, 0, "NONE", ""))
        file.writeframes(integers(16))
    assert np.abs(read_wav(buffer.getvalue()).samples - SINE).max() < 1e-4


def test_a_recording_that_was_streamed_ends_where_its_data_does() -> None:
    body = wav(1, 16, integers(16))
    at = body.index(b"data") + 4
    streamed = body[:at] + b"\xff\xff\xff\xff" + body[at + 4 :]
    assert len(read_wav(streamed).samples) == 1000
    assert len(read_wav(streamed[:-501]).samples) == 749


def test_channels_are_averaged() -> None:
    both = np.stack([np.full(10, 0.5), np.full(10, -0.25)], 1).astype("<f4")
    assert read_wav(wav(3, 32, both.tobytes(), channels=2)).samples.tolist() == [0.125] * 10


@given(st.binary(max_size=80), st.integers(0, 60))
def test_any_bytes_are_a_sound_or_a_bad_request(noise: bytes, at: int) -> None:
    body = bytearray(wav(1, 16, integers(16)[:40]))
    body[at : at + len(noise)] = noise
    with contextlib.suppress(BadRequest):
        assert read_wav(bytes(body)).samples.ndim == 1


@pytest.mark.parametrize("source", [500, 1500, 44100])
def test_resampling_keeps_what_the_new_rate_can_hold(source: int) -> None:
    times = torch.arange(source) / source
    low = (2 * torch.pi * 20 * times).sin()
    high = (2 * torch.pi * 700 * times).sin() if source > 1400 else 0 * low
    seen = resample(low + high, source, 1000)
    expected = (2 * torch.pi * 20 * torch.arange(1000) / 1000).sin()
    assert len(seen) == 1000
    assert float((seen - expected).abs().max()) < 0.02


def ask(client: Client, body: bytes, kind: str = "audio/wav") -> Any:
    return json.loads(bytes(client.invoke(body, kind).body))


def test_scores_are_the_mean_of_the_windows(folder: Path) -> None:
    sound = np.concatenate([np.full(100, 0.8), np.full(100, 0.4), np.full(50, -1)]).astype("<f4")
    with Client(AudioClassificationHandler, folder, **PLAIN) as client:
        above, below = ask(client, wav(3, 32, sound.tobytes()))
    assert above == {"label": "above", "score": pytest.approx(0.4)}
    assert below == {"label": "below", "score": pytest.approx(0.5 / 3)} or below["label"] == "above"


def test_recordings_of_unequal_length_share_a_batch(folder: Path) -> None:
    bodies = [np.full(n, 0.25 * i, "<f4") for i, n in ((1, 100), (2, 500), (3, 4000))]
    with Client(AudioClassificationHandler, folder, **PLAIN) as client:
        outcomes = client.batch([Request(wav(3, 32, one.tobytes()), "audio/wav") for one in bodies])
    answers = [json.loads(bytes(one.body))[0] for one in outcomes if isinstance(one, Response)]
    assert [one["score"] for one in answers] == pytest.approx([0.25, 0.5, 0.75])


def test_npy_is_samples_at_the_models_own_rate(folder: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.full(100, 0.5))
    with Client(AudioClassificationHandler, folder, **PLAIN) as client:
        assert ask(client, buffer.getvalue(), "application/x-npy")[0]["score"] == pytest.approx(0.5)


def test_a_module_exported_for_so_many_windows_is_filled_up(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(Loud(), (torch.zeros(4, 100),)), tmp_path / "model.pt2")
    with Client(AudioClassificationHandler, tmp_path, **PLAIN) as client:
        assert client.handler.policy.max_size == 1
        for count in (100, 900):
            found = ask(client, wav(3, 32, np.full(count, 0.5, "<f4").tobytes()))
            assert found[0] == {"label": "0", "score": pytest.approx(0.5)}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"hello", "no WAV file"),
        (wav(1, 16, b""), "the sound is empty"),
        (wav(1, 16, integers(16), rate=0), "0 samples a second"),
        (wav(1, 16, integers(16), channels=0), "0 channels"),
        (wav(1, 12, integers(16)), "format 1 of 12 bits"),
        (wav(6, 8, integers(8)), "format 6 of 8 bits"),
        (wav(3, 32, np.full(9, np.nan, "<f4").tobytes()), "are no numbers"),
        (wav(1, 16, integers(16) * 3), r"takes 3.0 s; allowed: up to 2"),
    ],
)
def test_what_is_no_sound_is_refused(folder: Path, body: bytes, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        ask(Client(AudioClassificationHandler, folder, max_seconds=2, **PLAIN), body)


def test_other_types_are_refused_with_what_would_help(folder: Path) -> None:
    client = Client(AudioClassificationHandler, folder, **PLAIN)
    with pytest.raises(UnsupportedMediaType, match="image/png is no sound"):
        ask(client, b"x", "image/png")
    with pytest.raises(BadRequest, match=r"serving\[audio\]|no sound that can be read"):
        ask(client, b"x", "audio/flac")
    with pytest.raises(ModelError, match="rate is 3; allowed: 100 to"):
        Client(AudioClassificationHandler, folder, rate=3)
