"""Sounds: a body decoded to samples, with any channels, width and rate."""

from __future__ import annotations

import io
import struct
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from handlers.options import need
from handlers.wrapped import unwrapped
from serving import BadRequest, Request, ServingError, UnsupportedMediaType, claims, codecs
from serving.errors import ModelError

WAV = ("audio/wav", "audio/x-wav", "audio/wave", "audio/vnd.wave")
PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE  # format tags; EXTENSIBLE has the real tag further on
FLOATS = 12  # bytes, at the peak, for one byte of a WAV file
RATES = range(100, 1_000_000)  # Hz


class Sound(NamedTuple):
    """``samples`` float32 [n] of -1 … 1, one channel; ``rate`` in samples a second."""

    samples: Any
    rate: int


def read_sound(request: Request, rate: int) -> Sound:
    """Return a request's sound: WAV, other ``audio/*`` by the package soundfile, or npy floats [n] at ``rate`` Hz.

    Channels are averaged. Raises BadRequest and UnsupportedMediaType.
    """
    request = unwrapped(request, "sound")
    kind = request.media_type
    if kind == codecs.NPY:
        samples = codecs.decode_npy(request.body)
        if samples.ndim != 1 or samples.dtype.kind != "f":
            raise BadRequest(f"an npy sound is floats [samples], not {samples.dtype} {list(samples.shape)}")
        sound = Sound(samples.astype(np.float32), rate)
    elif kind in WAV:
        claims.take(FLOATS * len(request.body))
        sound = read_wav(bytes(request.body))
    elif kind.startswith("audio/"):
        sound = read_other(bytes(request.body), kind)
    else:
        raise UnsupportedMediaType(f"content type {kind[:100] or '(none)'} is no sound; known: audio/*, npy")
    if not len(sound.samples) or not np.isfinite(sound.samples).all():
        raise BadRequest("the sound is empty, or some of its samples are no numbers")
    return sound


def read_wav(body: bytes) -> Sound:
    """Decode WAV; the standard library's ``wave`` has no floats. Raises BadRequest."""
    if body[:4] != b"RIFF" or body[8:12] != b"WAVE":
        raise BadRequest("the body is no WAV file")
    head, at = None, 12
    while at + 8 <= len(body):
        name, size = struct.unpack_from("<4sI", body, at)
        chunk = body[at + 8 : at + 8 + size]  # streaming recorders write too large a size
        if name == b"fmt " and len(chunk) >= 16:
            head = chunk
        if name == b"data" and head is not None:
            return to_sound(head, chunk)
        at += 8 + size + size % 2
    raise BadRequest("the WAV file has no format, or no data after it")


def to_sound(head: bytes, data: bytes) -> Sound:
    tag, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", head)
    if tag == EXTENSIBLE and len(head) >= 26:
        tag = struct.unpack_from("<H", head, 24)[0]
    if not 1 <= channels <= 64 or rate not in RATES:
        raise BadRequest(f"the WAV file has {channels} channels and {rate} samples a second")
    data = data[: len(data) // (channels * max(1, bits // 8)) * channels * max(1, bits // 8)]
    return Sound(to_floats(data, tag, bits).reshape(-1, channels).mean(1, dtype=np.float32), rate)


def to_floats(data: bytes, tag: int, bits: int) -> Any:
    """Return float32 of -1 … 1. Raises BadRequest for an unknown format."""
    if (tag, bits) == (PCM, 8):  # the only width without a sign
        return np.frombuffer(data, np.uint8).astype(np.float32) / 128 - 1
    if (tag, bits) == (PCM, 24):
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return wide.view("<i4")[:, 0].astype(np.float32) / 2**31
    if tag == PCM and bits in (16, 32):
        return np.frombuffer(data, f"<i{bits // 8}").astype(np.float32) / 2 ** (bits - 1)
    if tag == FLOAT and bits in (32, 64):
        with np.errstate(over="ignore"):  # values beyond float32 become infinite and are refused
            return np.frombuffer(data, f"<f{bits // 8}").astype(np.float32)
    raise BadRequest(f"the WAV file has format {tag} of {bits} bits; known: PCM of 8, 16, 24, 32, floats of 32, 64")


def read_other(body: bytes, kind: str) -> Sound:
    try:
        soundfile = need("soundfile", "audio")
    except ModelError as exc:
        raise UnsupportedMediaType(f"content type {kind[:100]} needs serving[audio]; known: audio/wav, npy") from exc
    try:
        info = soundfile.info(io.BytesIO(body))
        claims.take(2 * 4 * info.frames * info.channels)
        samples, rate = soundfile.read(io.BytesIO(body), dtype="float32", always_2d=True)
    except ServingError:
        raise
    except Exception as exc:  # each of its readers raises errors of its own
        raise BadRequest(f"the body is no sound that can be read: {type(exc).__name__}") from exc
    return Sound(samples.mean(1), int(rate))


def resample(samples: Tensor, source: int, target: int) -> Tensor:
    """Resample [n] from ``source`` to ``target`` samples a second, band-limited.

    Frequencies too high for the new rate are removed, not aliased as by interpolation.
    """
    if source == target:
        return samples
    count = max(1, round(len(samples) * target / source))
    changed: Tensor = torch.fft.irfft(torch.fft.rfft(samples), n=count)
    return changed * (count / len(samples))
