"""Plain: whatever Python people return, as what JSON and CSV can say.

Libraries are looked up among what is imported already: an object of theirs cannot be there without them.
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
from collections.abc import ItemsView, Iterable, KeysView, Mapping, ValuesView
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
TEXTS = (Decimal, Fraction, uuid.UUID)  # exact as text, and not as a number
DEPTH = 200  # of values within values
ODD = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, ImportError, AssertionError)


def is_plain(value: Any) -> bool:
    """Whether nothing in it needs a second look: lists, dicts with str keys, JSON's own values, arrays and tensors."""
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
    """A tensor, array or scalar of everyday numbers as lists of them. Raises TypeError for anything else."""
    array = tensor_of(value)
    if array is None or array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise TypeError
    return array.tolist()


def tensor_of(value: Any) -> Any:
    """A tensor or array as an array on the host, or a scalar of numpy; None for anything else. Types of torch that
    numpy lacks, as bfloat16 is, become float32."""
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
    """``value`` as dicts with str keys, lists and what JSON has beside. Raises HandlerError that names the type that
    has no such form, and where in the value it is."""
    try:
        return Walk().plain(value, "", 0)
    except RecursionError as exc:
        raise HandlerError("the output cannot be written as JSON: it is nested too deeply") from exc


class Walk:
    """One look over a value, whose parts are named as Python would: ``[0].label['a b']``."""

    def plain(self, value: Any, at: str, depth: int) -> Any:
        kind = type(value)
        if kind in LEAVES:
            return self._text(value, at) if kind is str else value
        if depth > DEPTH:
            self._refuse(f"it is nested more than {DEPTH} times", at[:200])
        try:
            found = self._known(value, at, depth + 1)
        except ODD as exc:  # of the library whose object it is, or of user code
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
        """Of what Python itself has."""
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
            return NotImplemented  # these are kinds of Python's own, and more than these
        if isinstance(value, str):
            return self._text(str.__str__(value), at)
        if isinstance(value, int):
            return int(value)
        if isinstance(value, float):
            return float(value)
        if isinstance(value, TEXTS):
            return str(value)
        if isinstance(value, os.PathLike):
            return self._text(os.fsdecode(value), at)
        if isinstance(value, dt.datetime | dt.date | dt.time):
            return value.isoformat()
        if isinstance(value, dt.timedelta):
            return duration((value.days * 86_400 + value.seconds) * 10**6 + value.microseconds, 6)
        return NotImplemented

    def _library(self, value: Any, at: str, depth: int) -> Any:
        """Of what libraries have; each gives parts that are looked at in turn."""
        array = tensor_of(value)
        if array is not None:
            return from_array(array, self, at, depth)
        for form in (from_pandas, from_arrow):
            found = form(value)
            if found is not NotImplemented:
                return self.plain(found, at, depth)
        return NotImplemented

    def _like(self, value: Any, at: str, depth: int) -> Any:
        """Of objects that say themselves what they are made of."""
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
        elif callable(getattr(value, "tolist", None)):  # as AWS's encoder does with whatever has one
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
        """As text, since JSON has no other keys: numbers, True and None as Python's json has them, tuples as Python."""
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
    """Sorted where that can be, so that the same set is the same answer."""
    try:
        return sorted(values)
    except TypeError:
        return values


def is_model(value: Any) -> bool:
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(value, pydantic.BaseModel)


def dumped(model: Any) -> Any:
    """A pydantic model as it would write itself as JSON; where it holds what pydantic cannot write, its parts."""
    try:
        return model.model_dump(mode="json")
    except Exception:  # pydantic's own, and those of the serializers of its fields
        return model.model_dump()
