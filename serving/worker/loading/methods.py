"""Methods: whether a handler's methods accept the server's calls, and whether it answers requests at all."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Iterator
from types import CodeType
from typing import Any

from serving.errors import ModelError
from serving.handler import Handler
from serving.usercode import origin

ARGUMENTS = {
    "decode": ("request",),
    "bucket": ("sample",),
    "collate": ("samples",),
    "predict": ("batch",),
    "split": ("outputs", "n"),
    "encode": ("output", "request"),
    "converse": ("stream",),
    "on_session_open": ("session",),
    "on_session_close": ("session",),
    "warmup": (),
    "close": (),
}
ASKED = ("predict", "converse")  # a handler needs at least one of them


def check_arguments(handler: Handler) -> None:
    """Check each method's signature.

    Raises ModelError, with file and line, where it does not take the server's arguments.
    """
    for method, arguments in ARGUMENTS.items():
        function, name = getattr(handler, method), f"{type(handler).__name__}.{method}"
        if not callable(function):
            raise ModelError(f"{name} is {type(function).__name__}, which cannot be called")
        try:
            # The function that is called counts: a decorator's may add or remove arguments.
            signature = inspect.signature(function, follow_wrapped=False)
        except (TypeError, ValueError):
            continue  # code in C may have no signature
        try:
            signature.bind(*arguments)
        except TypeError as exc:
            expected, found = (
                ", ".join(("self", *names)) for names in (arguments, map(str, signature.parameters.values()))
            )
            raise ModelError(
                f"{placed(function)}{name}: {exc}; expected {method}({expected}), not {method}({found})"
            ) from exc


def check_asked(handler: Handler) -> None:
    """Check that there is ``predict`` or ``converse``. Raises ModelError, with the nearest name."""
    kind = type(handler)
    if any(is_own(handler, method) for method in ASKED):
        return
    known = {name for one in Handler.__mro__ for name in vars(one)}
    own = {name for one in classes_of(kind) for name, value in vars(one).items() if callable(value)} - known
    found = [(method, name) for method in ASKED if (name := origin.close(method, own)) is not None]
    if found:
        near = f"did you mean `{found[0][0]}` for `{found[0][1]}`?"
    else:
        near = f"its own methods are {', '.join(sorted(own)[: origin.NAMES]) or 'none'}"
    raise ModelError(f"{placed(kind)}{kind.__name__} defines neither predict nor converse; {near}")


def is_own(handler: Handler, method: str) -> bool:
    """Return whether ``method`` is not Handler's own, or code of its class may replace it while it loads."""
    if getattr(getattr(handler, method), "__func__", None) is not getattr(Handler, method):
        return True
    return any(sets(code, method) for one in classes_of(type(handler)) for code in codes_of(one))


def classes_of(kind: type) -> list[type]:
    return [one for one in kind.__mro__ if one not in Handler.__mro__]


def codes_of(kind: type) -> Iterator[CodeType]:
    for value in vars(kind).values():
        function: Any = inspect.unwrap(value) if callable(value) else value
        if inspect.isfunction(function):
            yield function.__code__


def sets(code: CodeType, name: str) -> bool:
    """Return whether the code assigns ``self.name``, or has the name as a constant, as for ``setattr``."""
    return name in code.co_consts or any(
        one.opname == "STORE_ATTR" and one.argval == name for one in dis.get_instructions(code)
    )


def placed(thing: object) -> str:
    place = origin.defined(thing)
    return f"{place}: " if place else ""
