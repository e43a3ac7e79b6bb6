"""Model settings: the reader of a model's ``serving.toml``, which reports each problem with its key.

A message has the place, the key, its value and what is allowed, or the key that was meant; all problems at once.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from serving.config.parsers import DEVICE
from serving.errors import ModelError
from serving.handler import MAX_BATCH
from serving.model.model import DTYPES, MODES, Settings
from serving.model.modelfile import read_text, shown
from serving.system.gpus import VISIBLE

FILE = "serving.toml"
HOUR = 3600  # seconds
MINUTE = 60_000  # milliseconds
MOST = 256  # replicas, and threads
GPUS = 64
LINE = re.compile(r"(?P<what>.*) \(at line (?P<line>\d+), column (?P<column>\d+)\)", re.DOTALL)


class Rule(NamedTuple):
    """A test of a value; ``allowed`` says in words what passes."""

    holds: Callable[[Any], bool]
    allowed: str


class Problem(NamedTuple):
    """One problem; ``table`` is "" for keys at the top."""

    table: str
    key: str
    text: str


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def integer(low: int, high: int) -> Rule:
    def holds(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

    return Rule(holds, f"an integer from {low} to {high}")


def one_of(*names: str) -> Rule:
    return Rule(lambda value: value in names, ", ".join(f'"{name}"' for name in names))


def is_device(value: Any) -> bool:
    try:
        return isinstance(value, str) and DEVICE.parse(value) is not None
    except ValueError:
        return False


def are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(integer(1, MAX_BATCH).holds(size) for size in value)


SWITCH = Rule(lambda value: isinstance(value, bool), "true or false")
NUMBER = Rule(is_number, "a number")
HANDLER = re.compile(r"[^\s./\\:\0]+(\.[^\s./\\:\0]+)*:[^\s:\0]+")  # a module by its absolute name, and a class
TABLE = Rule(lambda value: isinstance(value, dict), "a table")
TOP: dict[str, Rule] = {
    "handler": Rule(lambda value: isinstance(value, str) and HANDLER.fullmatch(value) is not None, '"module:Class"'),
    "timeout_s": Rule(lambda value: is_number(value) and 0 < value <= HOUR, f"above 0, at most {HOUR}"),
    "replicas": integer(1, MOST),
    "device": Rule(is_device, DEVICE.allowed),
    "threads": integer(1, MOST),
    "gpus": integer(1, GPUS),
    "allow_pickle": SWITCH,
    "pin": SWITCH,
    "env": TABLE,
    "options": TABLE,
    "batch": TABLE,
    "dtype": one_of(*DTYPES),
    "channels_last": SWITCH,
    "compile": one_of(*MODES),
    "cuda_graphs": SWITCH,
    "batch_sizes": Rule(are_sizes, f"a list of integers from 1 to {MAX_BATCH}"),
    "optimize": SWITCH,
    "tf32": SWITCH,
}
BATCH: dict[str, Rule] = {
    "max_size": integer(1, MAX_BATCH),
    "max_delay_ms": Rule(lambda value: is_number(value) and 0 <= value <= MINUTE, f"0 to {MINUTE}"),
    "queue_size": Rule(
        lambda value: is_number(value) and isinstance(value, int) and value >= 1, "an integer, 1 or more"
    ),
    "pad": NUMBER,
    "max_latency_ms": Rule(lambda value: is_number(value) and 0 < value <= MINUTE, f"above 0, to {MINUTE}"),
}
TEXT = Rule(lambda value: isinstance(value, str) and "\0" not in value, 'text, such as "1"')


def read_settings(root: Path) -> Settings:
    """Read ``serving.toml`` of a model's root; returns defaults without one.

    Raises ModelError with all its problems.
    """
    path = root / FILE
    if not path.is_file():
        return Settings()
    try:
        text = read_text(path)
    except UnicodeDecodeError as exc:
        raise ModelError(f"{path} is no UTF-8: {exc.reason} at byte {exc.start}") from exc
    table = parse(path, text)
    problems = list(problems_of(table))
    if problems:
        raise ModelError("; ".join(f"{path}{place(text, one)}: {one.text}" for one in problems))
    try:
        return msgspec.convert(table, Settings)
    except (ValueError, RecursionError) as exc:
        raise ModelError(f"{path}: {exc}") from exc


def parse(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError as exc:
        raise ModelError(f"{path}: its values are nested too deeply") from exc
    except ValueError as exc:  # invalid TOML, or an integer of thousands of digits
        raise ModelError(f"{path}{described(str(exc), text)}") from exc


def described(message: str, text: str) -> str:
    """Return the parser's message with the line that it means."""
    match = LINE.fullmatch(message)
    lines = text.splitlines()
    number = int(match["line"]) if match is not None else len(lines)
    what = match["what"] if match is not None else message.removesuffix(" (at end of document)")
    line = lines[number - 1].strip() if 0 < number <= len(lines) else ""
    return f", line {number}: {what} in {shown(line)}" if line else f": {what}"


def problems_of(table: Mapping[str, Any]) -> Iterator[Problem]:
    yield from of_table("", table, TOP)
    if isinstance(batch := table.get("batch"), dict):
        yield from of_table("batch", batch, BATCH)
    if isinstance(env := table.get("env"), dict):
        yield from of_env(env)
    if table.get("optimize") is True and table.get("compile", "off") != "off":
        text = f"optimize is true and compile {shown(table['compile'])}; allowed: one of them"
        yield Problem("", "optimize", text)


def of_table(name: str, table: Mapping[str, Any], rules: Mapping[str, Rule]) -> Iterator[Problem]:
    prefix = f"[{name}] " if name else ""
    for key, value in table.items():
        if key not in rules:
            yield Problem(name, key, f"{prefix}{shown_key(key)} is no key: {hint(name, key, rules)}")
        elif not rules[key].holds(value):
            yield Problem(name, key, f"{prefix}{key} is {written(value)}; allowed: {rules[key].allowed}")


def of_env(env: Mapping[str, Any]) -> Iterator[Problem]:
    for key, value in env.items():
        if key == VISIBLE:
            yield Problem("env", key, f'[env] {key} is the server\'s to set; say device = "cuda:N" instead')
        elif not key or "=" in key or "\0" in key:
            yield Problem("env", key, f"[env] {shown_key(key)} is no name of a variable")
        elif not TEXT.holds(value):
            yield Problem("env", key, f"[env] {shown_key(key)} is {written(value)}; allowed: {TEXT.allowed}")


def hint(name: str, key: str, rules: Collection[str]) -> str:
    if not name and key in BATCH:
        return f"{key} belongs into [batch]"
    if name and key in TOP:
        return f"{key} belongs above all tables"
    close = difflib.get_close_matches(key, rules, n=1)
    return f"did you mean {close[0]}?" if close else f"allowed: {', '.join(rules)}"


def written(value: Any) -> str:
    """Return a value as TOML writes it."""
    return str(value).lower() if isinstance(value, bool) else shown(value)


def shown_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]{1,60}", key) else shown(key)


def place(text: str, problem: Problem) -> str:
    """Return ``, line N`` of a key, or "" where it is not found."""
    table = ""
    quoted = rf"""["']?{re.escape(problem.key)}["']?"""
    inner = re.compile(rf"\s*{quoted}\s*[=.]|\s*\[\s*{quoted}\s*[\].]")
    outer = re.compile(rf"\s*{re.escape(problem.table)}\s*(=|\.\s*{quoted}\s*[=.])" if problem.table else "(?!)")
    for number, line in enumerate(text.splitlines(), 1):
        if (head := re.match(r"\s*\[\[?\s*([^\]]*?)\s*\]", line)) and not problem.table and inner.match(line):
            return f", line {number}"
        if head:
            table = head[1].strip("\"' ")
        elif (table == problem.table and inner.match(line)) or (not table and outer.match(line)):
            return f", line {number}"
    return ""
