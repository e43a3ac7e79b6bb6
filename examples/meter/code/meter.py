"""A sound meter over a WebSocket: float32 samples in, as they are recorded; how loud and how high they are out.

Each binary message is a chunk of samples, in as many fragments as the client likes, and is answered with one JSON text.
The text ``reset`` forgets what was heard so far.
"""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from serving import BadRequest, Conversation, Handler, Request

SECONDS = 1.0  # of sound that the meter looks back on


class Meter(Handler):
    """Many conversations at a time, each with its own memory; ``/invocations`` takes one recording."""

    def load(self, model_dir: Path, device: str, rate: int = 16000) -> None:
        self.device = device
        self.rate = rate

    def decode(self, request: Request) -> Tensor:
        return self.samples(bytes(request.body))

    def predict(self, batch: Tensor) -> list[dict[str, float]]:
        return [self.measure(one) for one in batch]

    async def converse(self, stream: Conversation) -> None:
        heard, chunk = torch.zeros(0, device=self.device), b""
        async for message in stream:
            if isinstance(message.data, str):
                if message.data != "reset":
                    raise BadRequest(f"{message.data[:20]!r} is unknown; allowed: reset")
                heard = heard[:0]
                continue
            chunk += message.data
            if message.fin:
                heard = torch.cat([heard, self.samples(chunk)])[-int(SECONDS * self.rate) :]
                chunk = b""
                await stream.send(json.dumps(self.measure(heard)))

    def samples(self, data: bytes) -> Tensor:
        if len(data) % 4 or not data:
            raise BadRequest(f"a chunk has {len(data)} bytes; samples are float32")
        return torch.from_numpy(np.frombuffer(data, np.float32).copy()).to(self.device)

    def measure(self, sound: Tensor) -> dict[str, float]:
        """Loudness in dB of full scale, and the strongest frequency in Hz."""
        loudness = 20 * torch.log10(sound.pow(2).mean().sqrt().clamp_min(1e-6))
        spectrum = torch.fft.rfft(sound * torch.hann_window(len(sound), device=sound.device)).abs()
        peak = int(spectrum[1:].argmax()) + 1 if len(spectrum) > 1 else 0
        return {"db": round(float(loudness), 1), "hz": round(peak * self.rate / len(sound), 1)}
