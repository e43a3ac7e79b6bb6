"""Signatures: how to call a script's function, with or without the context of its requests."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from inspect import Parameter
from typing import Any

from serving.adapters.context import Context
from serving.errors import ModelError

Function = Callable[[list[Any], Context], Any]
BY_PLACE = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


def adapted(function: Callable[..., Any], name: str, expected: int) -> Function:
    """Return a uniform way to call the function.

    It gets the context if it takes ``context`` by name, or one parameter more than ``expected``, as in the toolkits.
    Raises ModelError for any other signature.
    """
    parameters = parameters_of(function, name)
    kinds = {parameter.kind for parameter in parameters}
    named = [parameter for parameter in parameters if parameter.kind is Parameter.KEYWORD_ONLY]
    placed = [parameter.name for parameter in parameters if parameter.kind in BY_PLACE]
    needed = [parameter.name for parameter in named if parameter.default is Parameter.empty]
    if set(needed) - {"context"}:
        raise ModelError(f"{name} needs {', '.join(needed)} by name; allowed: context")
    many = Parameter.VAR_POSITIONAL in kinds
    if len(placed) == expected + 1:
        place = placed.index("context") if "context" in placed else expected
        return lambda arguments, context: function(*arguments[:place], context, *arguments[place:])
    if len(placed) != expected and not (many and len(placed) < expected):
        raise ModelError(f"{name} takes {len(placed)} arguments; allowed: {expected}, or {expected + 1} with context")
    if any(parameter.name == "context" for parameter in named):
        return lambda arguments, context: function(*arguments, context=context)
    if len(placed) == expected and many != (Parameter.VAR_KEYWORD in kinds):
        if many:
            return lambda arguments, context: function(*arguments, context)
        return lambda arguments, context: function(*arguments, context=context)
    return lambda arguments, context: function(*arguments)


def parameters_of(function: Callable[..., Any], name: str) -> list[Parameter]:
    if inspect.iscoroutinefunction(function):
        raise ModelError(f"{name} is a coroutine function; allowed: a function, or a generator of either kind")
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as exc:
        raise ModelError(f"{name} does not tell its parameters: {exc}") from exc


def misspelled(names: Mapping[str, Any], missing: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield functions that are one typing slip away from a name that the script does not define, with that name."""
    wanted = sorted(missing)
    for name, value in names.items():
        if callable(value):
            yield from ((name, one) for one in wanted if is_one_slip(name, one))


def is_one_slip(name: str, other: str) -> bool:
    """Return whether one letter is missing, added or different, or two neighbours are swapped."""
    first = next((i for i, (a, b) in enumerate(zip(name, other, strict=False)) if a != b), min(len(name), len(other)))
    rest, meant = name[first:], other[first:]
    if len(rest) == len(meant):
        swapped = rest[:2] == meant[1::-1] and rest[2:] == meant[2:]
        return bool(rest) and (rest[1:] == meant[1:] or swapped)
    return rest[1:] == meant or rest == meant[1:]
