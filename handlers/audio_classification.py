"""AudioClassificationHandler: a recording to its best labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from handlers.built import BuiltHandler
from handlers.labels import probabilities, read_labels
from handlers.options import one_of, overridable, whole, within
from handlers.parameters import top_k_of
from handlers.sounds import read_sound, resample
from serving import BadRequest, BatchPolicy, Request
from serving.transfer import to_device


class AudioClassificationHandler(BuiltHandler):
    """A handler of recordings: WAV, other ``audio/*`` with the extra ``audio``, or npy.

    The answer is ``[{"label", "score"}, …]``, best first. The module maps float32 [n, samples] to [n, classes]. A
    recording is cut into windows of that length, the last one padded with silence, and its scores are the mean over its
    windows.
    """

    policy = BatchPolicy(max_size=32)
    decode_threads = 2

    @overridable
    def load(
        self,
        model_dir: Path,
        device: str,
        file: str | None = None,
        allow_pickle: bool = False,
        rate: int = 16000,
        seconds: float = 1.0,
        max_seconds: float = 60.0,
        topk: int = 5,
        outputs: str = "logits",
        labels: str | None = None,
    ) -> None:
        """Load the model. ``rate``, in Hz, and the window's ``seconds`` are those that the module was trained with.

        A recording of more than ``max_seconds`` is refused. ``outputs`` are ``logits``, ``probabilities`` or, for
        labels that do not exclude each other, ``independent``. Raises ModelError.
        """
        self.device = device
        self.module, static = self.load_module(model_dir, device, file, allow_pickle)
        self.static = static
        if static is not None:
            self.policy = replace(self.policy, max_size=1)
        self.rate = whole("rate", rate, 100, 1_000_000)
        self.window = max(1, round(self.rate * within("seconds", seconds, 0.001, 600)))
        self.max_seconds = within("max_seconds", max_seconds, 0.001, 36_000)
        self.topk = whole("topk", topk, 1, 1000)
        self.outputs = one_of("outputs", outputs, "logits", "probabilities", "independent")
        self.labels = read_labels(model_dir, labels)

    def decode(self, request: Request) -> Tensor:
        """Return [windows, samples]."""
        top_k_of(request, self.topk, self.topk)  # so that an invalid one is refused here
        sound = read_sound(request, self.rate)
        length = len(sound.samples) / sound.rate
        if length > self.max_seconds:
            raise BadRequest(f"the recording takes {length:.1f} s; allowed: up to {self.max_seconds:g}")
        return self.windows(resample(torch.from_numpy(sound.samples), sound.rate, self.rate))

    def windows(self, samples: Tensor) -> Tensor:
        """Cut samples into windows. Override it for windows that overlap, or for a single one."""
        return pad(samples, (0, -len(samples) % self.window)).reshape(-1, self.window)

    def bucket(self, sample: Tensor) -> int:
        return 0  # recordings of any length are joined by their windows

    def collate(self, samples: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
        return to_device(torch.cat(list(samples)), self.device), [len(one) for one in samples]

    def predict(self, batch: tuple[Tensor, list[int]]) -> Any:
        """Return scores and classes of the best, [n, topk] each."""
        data, counts = batch
        # At most ``max_size`` windows at a time, so that long recordings need no more memory.
        parts = torch.split(data, self.static or self.policy.max_size)
        scores = torch.cat([probabilities(self.run(part), self.outputs) for part in parts])
        means = torch.stack([one.mean(0) for one in torch.split(scores, counts)])
        best = means.topk(min(self.topk, means.shape[1]))
        return best.values, best.indices

    def run(self, windows: Tensor) -> Tensor:
        """Map [n, samples] to [n, classes], padded to the batch size that the module was exported for."""
        missing = 0 if self.static is None else self.static - len(windows)
        outputs: Tensor = self.module(pad(windows, (0, 0, 0, missing))).float()
        return outputs[: len(windows)]

    def encode(self, output: Any, request: Request) -> Any:
        best = top_k_of(request, self.topk, self.topk)
        return self.labels.scored(*(one[:best] for one in output))

    def warmup(self) -> None:
        self.predict((torch.zeros(1, self.window, device=self.device), [1]))
