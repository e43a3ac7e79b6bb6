"""Plain: any common Python value as values that JSON and CSV can hold.

Libraries are looked up in ``sys.modules``: without the library there is no object of it.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import enum
import os
import sys
import uuid
from array import array as machine_array
from collections import deque
from collections.abc import Callable, ItemsView, Iterable, KeysView, Mapping, ValuesView
from collections.abc import Set as AnySet
from decimal import Decimal
from fractions import Fraction
from typing import Any, NoReturn

import msgspec

from serving.codecs.frames import from_array, from_arrow, from_pandas
from serving.codecs.times import duration
from serving.errors import HandlerError

LISTS = (list, tuple, deque, range, machine_array, KeysView, ValuesView, ItemsView)
LEAVES = frozenset({str, int, float, bool, type(None)})
BYTES = (bytes, bytearray, memoryview)
TEXTS = (Decimal, Fraction, uuid.UUID)  # exact as text, inexact as a JSON number
# What becomes a number or a text by itself.
SIMPLE: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
    (int, int),
    (float, float),
    (TEXTS, str),
    ((dt.date, dt.time), lambda value: value.isoformat()),
)
DEPTH = 200  # of nesting
ODD = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, ImportError, AssertionError)


def is_plain(value: Any) -> bool:
    """Return whether a value needs no conversion: lists, dicts with str keys, JSON's values, arrays and tensors."""
    kind = type(value)
    if kind is dict:
        for key, part in value.items():
            if type(key) is not str or (type(part) not in LEAVES and not is_plain(part)):
                return False
        return True
    if kind is list or kind is tuple:
        return LEAVES.issuperset(map(type, value)) or all(type(part) in LEAVES or is_plain(part) for part in value)
    return kind in LEAVES or kind.__module__ in ("numpy", "torch")


def numbers_of(value: Any) -> Any:
    """Return a tensor, array or scalar of common numbers as lists. Raises TypeError for anything else."""
    array = tensor_of(value)
    if array is None or array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise TypeError
    return array.tolist()


def tensor_of(value: Any) -> Any:
    """Return a tensor or array as an array on the host, or a numpy scalar; None for anything else.

    torch dtypes that numpy lacks, such as bfloat16, become float32.
    """
    if hasattr(value, "detach"):
        torch = sys.modules.get("torch")
        return host_array(value, torch) if torch is not None and isinstance(value, torch.Tensor) else None
    numpy = sys.modules.get("numpy")
    return value if numpy is not None and isinstance(value, numpy.ndarray | numpy.generic) else None


def host_array(tensor: Any, torch: Any) -> Any:
    tensor = tensor.detach().cpu()
    if tensor.dtype in (torch.float32, torch.int64) and tensor.layout is torch.strided and not tensor.is_neg():
        return tensor.numpy()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_floating_point() and tensor.dtype not in (torch.float32, torch.float64, torch.float16):
        tensor = tensor.float()
    return tensor.numpy(force=True)


def to_plain(value: Any) -> Any:
    """Convert a value to dicts with str keys, lists and JSON's other values.

    Raises HandlerError with the type that has no JSON form, and its place in the value.
    """
    try:
        return Walk().plain(value, "", 0)
    except RecursionError as exc:
        raise HandlerError("the output cannot be written as JSON: it is nested too deeply") from exc


class Walk:
    """The conversion of one value, whose parts are named as in Python: ``[0].label['a b']``."""

    def plain(self, value: Any, at: str, depth: int) -> Any:
        kind = type(value)
        if kind in LEAVES:
            return self._text(value, at) if kind is str else value
        if depth > DEPTH:
            self._refuse(f"it is nested more than {DEPTH} times", at[:200])
        try:
            found = self._known(value, at, depth + 1)
        except ODD as exc:  # from the object's library or from user code
            raise HandlerError(
                f"the output cannot be written as JSON: {name_of(kind)}{place(at)} failed with {type(exc).__name__}"
            ) from exc
        if found is NotImplemented:
            self._refuse(f"{name_of(kind)} has no JSON form", at)
        return found

    def _known(self, value: Any, at: str, depth: int) -> Any:
        for form in (self._python, self._library, self._like):
            found = form(value, at, depth)
            if found is not NotImplemented:
                return found
        return NotImplemented

    def _python(self, value: Any, at: str, depth: int) -> Any:
        """Convert a value of a Python type."""
        if isinstance(value, enum.Enum):
            return self.plain(value.value, at, depth)
        if isinstance(value, Mapping):
            return self.table(value.items(), at, depth)
        if isinstance(value, LISTS):
            return self.list(value, at, depth)
        if isinstance(value, AnySet):
            return self.list(in_order(value), at, depth)
        if isinstance(value, BYTES):
            return base64.b64encode(value).decode()
        return self._scalar(value, at)

    def _scalar(self, value: Any, at: str) -> Any:
        if module_of(value) in ("numpy", "pandas", "torch"):
            return NotImplemented  # subclasses of Python's types that mean more
        if isinstance(value, str):
            return self._text(str.__str__(value), at)
        for base, convert in SIMPLE:
            if isinstance(value, base):
                return convert(value)
        if isinstance(value, os.PathLike):
            return self._text(os.fsdecode(value), at)
        if isinstance(value, dt.timedelta):
            return duration((value.days * 86_400 + value.seconds) * 10**6 + value.microseconds, 6)
        return NotImplemented

    def _library(self, value: Any, at: str, depth: int) -> Any:
        """Convert a value of a library; its parts are converted in turn."""
        array = tensor_of(value)
        if array is not None:
            return from_array(array, self, at, depth)
        for form in (from_pandas, from_arrow):
            found = form(value)
            if found is not NotImplemented:
                return self.plain(found, at, depth)
        return NotImplemented

    def _like(self, value: Any, at: str, depth: int) -> Any:
        """Convert an object that lists its own fields, or has ``tolist``."""
        if isinstance(value, type):
            return NotImplemented
        if isinstance(value, msgspec.Struct):
            return msgspec.Raw(msgspec.json.encode(value, enc_hook=lambda one: self.plain(one, at, depth)))
        if dataclasses.is_dataclass(value):
            names = [field.name for field in dataclasses.fields(value)]
        elif is_model(value):
            return self.plain(dumped(value), at, depth)
        elif (attributes := getattr(type(value), "__attrs_attrs__", None)) is not None:
            names = [one.name for one in attributes]
        elif callable(getattr(value, "tolist", None)):  # as AWS's encoder does
            found = value.tolist()
            return NotImplemented if type(found) is type(value) else self.plain(found, at, depth)
        else:
            return NotImplemented
        return {name: self.plain(getattr(value, name), f"{at}.{name}", depth) for name in names}

    def table(self, items: Iterable[tuple[Any, Any]], at: str, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, part in items:
            name = self._key(key, at)
            where = f"{at}.{name}" if name.isidentifier() else f"{at}[{name[:40]!r}]"
            if name in found:
                self._refuse(f"two keys are both written {name[:40]!r}", at)
            found[name] = self.plain(part, where, depth)
        return found

    def list(self, values: Iterable[Any], at: str, depth: int) -> list[Any]:
        return [
            one if type(one) in LEAVES and type(one) is not str else self.plain(one, f"{at}[{number}]", depth)
            for number, one in enumerate(values)
        ]

    def _key(self, key: Any, at: str) -> str:
        """Return a key as text, which JSON needs: numbers, True and None as in Python's json, tuples as in Python."""
        if type(key) is str:
            return self._text(key, f"{at} (a key)")
        if isinstance(key, tuple):
            return str(tuple(self.plain(part, f"{at} (a key)", DEPTH) for part in key))
        found = self.plain(key, f"{at} (a key)", DEPTH)
        if isinstance(found, str):
            return found
        if found is None or isinstance(found, bool):
            return WORDS[found]
        if not isinstance(found, int | float):
            self._refuse(f"a key is {name_of(type(key))}, which has no form as text", at)
        return repr(found)

    def _text(self, text: str, at: str) -> str:
        try:
            text.encode()
        except UnicodeEncodeError:
            self._refuse("a text has half a surrogate pair, which is no character", at)
        return text

    def _refuse(self, why: str, at: str) -> NoReturn:
        raise HandlerError(f"the output cannot be written as JSON: {why}{place(at)}")


WORDS = {None: "null", True: "true", False: "false"}


def place(at: str) -> str:
    return f", at {at[:200]}" if at else ""


def name_of(kind: type) -> str:
    module = kind.__module__
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"


def module_of(value: Any) -> str:
    return type(value).__module__.partition(".")[0]


def in_order(values: Any) -> Any:
    """Return the values sorted if possible, so that equal sets give equal answers."""
    try:
        return sorted(values)
    except TypeError:
        return values


def is_model(value: Any) -> bool:
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(value, pydantic.BaseModel)


def dumped(model: Any) -> Any:
    """Return a pydantic model as its own JSON form, or its fields where pydantic cannot write them."""
    try:
        return model.model_dump(mode="json")
    except Exception:  # of pydantic, or of the serializers of its fields
        return model.model_dump()
