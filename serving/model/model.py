"""Model: one model folder as it will be served; and Settings: its ``serving.toml``."""

from __future__ import annotations

from typing import Any

import msgspec

from serving.errors import ModelError
from serving.handler import BatchPolicy

DEFAULT_MODEL = "model"  # the name of the one model of a single-model server


# Variables of [env] that stand for the setting threads, the strongest first.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


class BatchTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[batch]``: the fields of BatchPolicy that this model overrides."""

    max_size: int | None = None
    max_delay_ms: float | None = None
    queue_size: int | None = None
    pad: float | None = None
    max_latency_ms: float | None = None


DTYPES = ("float32", "float16", "bfloat16")
MODES = ("off", "default", "reduce-overhead", "max-autotune")


class Speed(msgspec.Struct, frozen=True):
    """How a model's module is run. ``batch_sizes`` are compiled or captured; () means powers of two.

    With ``cuda_graphs`` None the worker decides.
    """

    dtype: str | None = None
    channels_last: bool = False
    compile: str = "off"
    cuda_graphs: bool | None = None
    batch_sizes: tuple[int, ...] = ()
    optimize: bool = False

    @property
    def wanted(self) -> bool:
        return self != Speed(batch_sizes=self.batch_sizes, cuda_graphs=False if self.cuda_graphs is False else None)

    def keys(self) -> list[str]:
        """Return the keys of ``serving.toml`` that are set here."""
        return [name for name, value in msgspec.structs.asdict(self).items() if value != getattr(Speed(), name)]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``serving.toml``. Every key is optional, an unknown one an error. ``timeout_s`` is in seconds."""

    handler: str | None = None
    timeout_s: float | None = None
    replicas: int | None = None
    device: str | None = None
    threads: int | None = None
    gpus: int = 1
    allow_pickle: bool = False
    pin: bool = False
    env: dict[str, str] = {}
    options: dict[str, Any] = {}
    batch: BatchTable = BatchTable()
    dtype: str | None = None
    channels_last: bool = False
    compile: str = "off"
    cuda_graphs: bool | None = None
    batch_sizes: tuple[int, ...] = ()
    optimize: bool = False
    tf32: bool = True

    @property
    def speed(self) -> Speed:
        return Speed(
            self.dtype, self.channels_last, self.compile, self.cuda_graphs, self.batch_sizes, optimize=self.optimize
        )


class Model(msgspec.Struct, frozen=True):
    """All that a worker needs to load a model. ``handler`` is ``module:Class``; ``path`` and ``code`` are folders.

    ``convention`` is the name of the convention that chose the handler, "" where ``serving.toml`` did. ``per_gpu``: one
    replica on each GPU. ``gpus`` is the number for one replica. A model of the store also has a ``url``, its folder or
    archive there; a ``digest`` that changes with that; a ``fingerprint`` that every copy shares; and its ``size`` in
    bytes.
    """

    name: str
    path: str
    code: str
    handler: str
    timeout: float
    replicas: int
    device: str
    threads: int
    queue_size: int
    env: dict[str, str] = {}
    options: dict[str, Any] = {}
    batch: BatchTable = BatchTable()
    pin: bool = False
    url: str = ""
    digest: str = ""
    fingerprint: str = ""
    size: int = 0
    per_gpu: bool = False
    speed: Speed = Speed()
    gpus: int = 1
    tf32: bool = True
    convention: str = ""

    def policy(self, base: BatchPolicy) -> BatchPolicy:
        """Return the handler's policy with this model's overrides. Raises ModelError for invalid ones."""
        changes = {name: value for name, value in msgspec.structs.asdict(self.batch).items() if value is not None}
        try:
            return BatchPolicy(
                **{name: changes.get(name, getattr(base, name)) for name in BatchPolicy.__dataclass_fields__}
            )
        except ValueError as exc:
            raise ModelError(f"{self.path}: [batch] {exc}") from exc
