"""Model: one model folder as it will be served, and Settings: what its ``serving.toml`` says."""

from __future__ import annotations

from typing import Any

import msgspec

from serving.errors import ModelError
from serving.handler import BatchPolicy

DEFAULT_MODEL = "model"  # the name of the one model of a single-model server


# Variables of [env] that mean the setting threads, the strongest first.
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
    """How a model's module is run. ``batch_sizes`` are those that are compiled or captured; () is powers of two.
    ``cuda_graphs`` of None leaves it to the worker."""

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
        """The keys of ``serving.toml`` that say something here."""
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
    """What a worker needs to load a model. ``handler`` is ``module:Class``; ``path`` and ``code`` are folders.

    ``convention`` is the name of the one that chose the handler, "" where ``serving.toml`` did.
    ``per_gpu``: it has as many replicas as there are GPUs, one on each. ``gpus`` are those of one replica.
    Of a model of the store also ``url``, its folder or archive there, a ``digest`` that changes whenever that does, a
    ``fingerprint`` that every copy of it has, and its ``size`` in bytes.
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
        """The handler's policy with this model's overrides. Raises ModelError."""
        changes = {name: value for name, value in msgspec.structs.asdict(self.batch).items() if value is not None}
        try:
            return BatchPolicy(
                **{name: changes.get(name, getattr(base, name)) for name in BatchPolicy.__dataclass_fields__}
            )
        except ValueError as exc:
            raise ModelError(f"{self.path}: [batch] {exc}") from exc
