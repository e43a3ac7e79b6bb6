"""TritonConfig: a Triton model's ``config.pbtxt`` as typed structs, with Triton's names.

Only honoured fields are fields here: a warning names all others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

from serving.adapters.triton.text import Message, TextError, Value, Word, parse
from serving.model.modelfile import read_text, shown

FILE = "config.pbtxt"
SCRIPT = "model.py"
DATA_TYPES = frozenset(
    f"TYPE_{name}"
    for name in (
        *("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
        *("FP16", "FP32", "FP64", "STRING", "BF16"),
    )
)


FORMATS = frozenset({"FORMAT_NONE", "FORMAT_NHWC", "FORMAT_NCHW"})
CONTROLS = frozenset(f"CONTROL_SEQUENCE_{name}" for name in ("START", "READY", "END", "CORRID"))
CORRELATIONS = frozenset({"TYPE_INVALID", "TYPE_UINT64", "TYPE_INT64", "TYPE_UINT32", "TYPE_INT32", "TYPE_STRING"})
TIMEOUT_ACTIONS = frozenset({"REJECT", "DELAY"})


class TritonConfigError(ValueError):
    """A configuration that cannot be read or served; the message is for its author."""


class Reshape(msgspec.Struct):
    shape: list[int] = []


class ModelInput(msgspec.Struct):
    """An input. ``dims`` are those that clients send, without the batch dimension, -1 for any length."""

    name: str
    data_type: str = "TYPE_INVALID"
    format: str = "FORMAT_NONE"
    dims: list[int] = []
    reshape: Reshape | None = None
    is_shape_tensor: bool = False
    allow_ragged_batch: bool = False
    optional: bool = False


class ModelOutput(msgspec.Struct):
    name: str
    data_type: str = "TYPE_INVALID"
    dims: list[int] = []
    reshape: Reshape | None = None
    label_filename: str = ""
    is_shape_tensor: bool = False


class InstanceGroup(msgspec.Struct):
    name: str = ""
    kind: str = "KIND_AUTO"
    count: int = 1
    gpus: list[int] = []


class QueuePolicy(msgspec.Struct):
    timeout_action: str = "REJECT"
    default_timeout_microseconds: int = 0
    allow_timeout_override: bool = False
    max_queue_size: int = 0


class DynamicBatching(msgspec.Struct):
    preferred_batch_size: list[int] = []
    max_queue_delay_microseconds: int = 0
    preserve_ordering: bool = False
    priority_levels: int = 0
    default_priority_level: int = 0
    default_queue_policy: QueuePolicy | None = None


class Control(msgspec.Struct):
    kind: str = "CONTROL_SEQUENCE_START"
    int32_false_true: list[int] = []
    fp32_false_true: list[float] = []
    bool_false_true: list[bool] = []
    data_type: str = "TYPE_INVALID"


class ControlInput(msgspec.Struct):
    name: str
    control: list[Control] = []


class Strategy(msgspec.Struct):
    """``direct`` or ``oldest``, which are the same here, since the slots of a batch do not matter."""

    max_candidate_sequences: int = 0
    preferred_batch_size: list[int] = []
    max_queue_delay_microseconds: int = 0
    minimum_slot_utilization: float = 0.0


class SequenceBatching(msgspec.Struct):
    max_sequence_idle_microseconds: int = 1_000_000
    control_input: list[ControlInput] = []
    direct: Strategy | None = None
    oldest: Strategy | None = None
    iterative_sequence: bool = False


class TransactionPolicy(msgspec.Struct):
    decoupled: bool = False


class Parameter(msgspec.Struct):
    string_value: str = ""


class WarmupInput(msgspec.Struct):
    data_type: str = "TYPE_INVALID"
    dims: list[int] = []
    zero_data: bool = False
    random_data: bool = False
    input_data_file: str = ""


class Warmup(msgspec.Struct):
    name: str = ""
    batch_size: int = 0
    inputs: dict[str, WarmupInput] = {}
    count: int = 1


class Latest(msgspec.Struct):
    num_versions: int = 1


class All(msgspec.Struct):
    pass


class Specific(msgspec.Struct):
    versions: list[int] = []


class VersionPolicy(msgspec.Struct):
    latest: Latest | None = None
    all: All | None = None
    specific: Specific | None = None


class TritonConfig(msgspec.Struct):
    """One model. With ``max_batch_size`` above 0 every tensor has a batch dimension before its ``dims``."""

    name: str = ""
    platform: str = ""
    backend: str = ""
    runtime: str = ""
    version_policy: VersionPolicy | None = None
    max_batch_size: int = 0
    input: list[ModelInput] = []
    output: list[ModelOutput] = []
    instance_group: list[InstanceGroup] = []
    dynamic_batching: DynamicBatching | None = None
    sequence_batching: SequenceBatching | None = None
    default_model_filename: str = SCRIPT
    cc_model_filenames: dict[str, str] = {}
    metric_tags: dict[str, str] = {}
    parameters: dict[str, Parameter] = {}
    model_warmup: list[Warmup] = []
    model_transaction_policy: TransactionPolicy | None = None

    @property
    def is_decoupled(self) -> bool:
        return self.model_transaction_policy is not None and self.model_transaction_policy.decoupled

    @property
    def tensors(self) -> list[ModelInput | ModelOutput]:
        return [*self.input, *self.output]

    def find_input(self, name: str) -> ModelInput | None:
        return next((one for one in self.input if one.name == name), None)

    def find_output(self, name: str) -> ModelOutput | None:
        return next((one for one in self.output if one.name == name), None)


def read_config(folder: Path) -> tuple[TritonConfig, list[str]]:
    """Read a model's configuration and return it with notes on unknown fields.

    Without a file it is a minimal one, which the model's ``auto_complete_config`` may complete. Raises
    TritonConfigError or OSError.
    """
    path = folder / FILE
    text = read_text(path) if path.is_file() else ""
    try:
        config, unknown = read(text)
    except (TextError, TritonConfigError) as exc:
        raise TritonConfigError(f"{path}: {exc}") from exc
    config.name = config.name or folder.name
    return config, [f"{path}: {name} is not known here and has no effect" for name in unknown]


def read(text: str) -> tuple[TritonConfig, list[str]]:
    """Parse a configuration and return it with the names of unknown fields. Raises TextError or TritonConfigError."""
    unknown: list[str] = []
    plain = plain_struct(parse(text), TritonConfig, "", unknown)
    try:
        return msgspec.convert(plain, TritonConfig), unknown
    except msgspec.ValidationError as exc:
        raise TritonConfigError(str(exc)) from exc


def as_dict(config: TritonConfig) -> dict[str, Any]:
    """Return the configuration as Triton shows it: without fields that are not set."""
    found = without_none(msgspec.to_builtins(config))
    assert isinstance(found, dict)
    return found


def without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_none(one) for key, one in value.items() if one is not None}
    return [without_none(one) for one in value] if isinstance(value, list) else value


def from_dict(found: dict[str, Any]) -> TritonConfig:
    """Return the configuration that ``auto_complete_config`` made. Raises TritonConfigError."""
    try:
        return msgspec.convert(found, TritonConfig)
    except msgspec.ValidationError as exc:
        raise TritonConfigError(f"auto_complete_config: {exc}") from exc


# The text format has no types: a list of one looks like a single value, and a map is a list of pairs.


def plain_struct(message: Message, struct: type, path: str, unknown: list[str]) -> dict[str, Any]:
    info = inspect.type_info(struct)
    assert isinstance(info, inspect.StructType)
    fields = {field.encode_name: field.type for field in info.fields}
    found: dict[str, Any] = {}
    for name, values in message.items():
        if name in fields:
            found[name] = plain_field(values, fields[name], f"{path}{name}", unknown)
        else:
            unknown.append(f"{path}{name}")
    return found


def plain_field(values: list[Value], kind: inspect.Type, path: str, unknown: list[str]) -> Any:
    match kind:
        case inspect.ListType(item_type=item):
            return [plain(value, item, path, unknown) for value in values]
        case inspect.DictType(value_type=item):
            return dict(plain_pair(value, item, path, unknown) for value in values)
        case inspect.UnionType(types=types):  # a field that may be absent
            return plain_field(values, types[0], path, unknown)
    if len(values) != 1:
        raise TritonConfigError(f"{path} is given {len(values)} times")
    return plain(values[0], kind, path, unknown)


def plain_pair(value: Value, kind: inspect.Type, path: str, unknown: list[str]) -> tuple[str, Any]:
    if not isinstance(value, dict) or "key" not in value:
        raise TritonConfigError(f"{path} is a map: give key and value")
    key = value["key"][0]
    if not isinstance(key, str) or "value" not in value:
        raise TritonConfigError(f"{path} has a key that is no string, or no value")
    return key, plain_field(value["value"], kind, f"{path}[{key}].", unknown)


def plain(value: Value, kind: inspect.Type, path: str, unknown: list[str]) -> Any:
    if isinstance(kind, inspect.StructType):
        if not isinstance(value, dict):
            raise TritonConfigError(f"{path} is {shown(value)}; allowed: a message in braces")
        return plain_struct(value, kind.cls, f"{path.rstrip('.')}.", unknown)
    if isinstance(value, dict):
        raise TritonConfigError(f"{path} is a message; allowed: one value")
    if isinstance(kind, inspect.BoolType):
        return truth(value, path)
    return str(value) if isinstance(value, Word) else value


def truth(value: Value, path: str) -> bool:
    if isinstance(value, Word | int) and str(value) in ("true", "True", "t", "1"):
        return True
    if isinstance(value, Word | int) and str(value) in ("false", "False", "f", "0"):
        return False
    raise TritonConfigError(f"{path} is {shown(value)}; allowed: true, false")
