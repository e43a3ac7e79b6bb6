"""Parsers: how the text of a setting becomes its value, and a description of the texts that are allowed.

Every parser takes stripped text and raises ValueError, and nothing else, for text that is not allowed.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote

Value = bool | int | float | str | tuple[int, int] | tuple[str, ...]

MIB = 1 << 20  # bytes
GIB = 1 << 30
SIZE_LIMIT = 1 << 40  # bytes
BATCH_TIME = 600.0  # seconds
HOUR = 3600.0  # seconds; the longest that the platform waits for an asynchronous inference
UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": MIB, "gib": GIB}


@dataclass(frozen=True, slots=True)
class Warned:
    """A value that is used although the text was not followed exactly; ``why`` is shown to the user."""

    value: Value
    why: str


@dataclass(frozen=True, slots=True)
class SettingParser:
    """The parser of a setting. ``parse`` raises ValueError for text that is not ``allowed``, and returns None for text
    without a meaning here, so that the next weaker source decides.
    """

    allowed: str
    parse: Callable[[str], Value | Warned | None]


def integer(low: int, high: int, unit: int = 1) -> SettingParser:
    def parse(text: str) -> int:
        # int() alone also takes signs, underscores and the digits of other scripts
        if not re.fullmatch("[0-9]{1,15}", text) or not low <= int(text) <= high:
            raise ValueError
        return int(text) * unit

    return SettingParser(f"an integer from {low} to {high}", parse)


def decimal(text: str) -> float:
    """Return a number of at least 0. Raises ValueError, also for a number that is too large to be finite."""
    if not re.fullmatch(r"[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?", text) or not math.isfinite(float(text)):
        raise ValueError
    return float(text)


def number(of: str, high: float) -> SettingParser:
    def parse(text: str) -> float:
        if decimal(text) > high:
            raise ValueError
        return decimal(text)

    return SettingParser(f"a number of {of} from 0 to {high:g}", parse)


def timeout(high: float) -> SettingParser:
    def parse(text: str) -> float:
        if not 0 < decimal(text) <= high:
            raise ValueError
        return decimal(text)

    return SettingParser(f"a number of seconds above 0 and at most {high:g}", parse)


def choice(*names: str) -> SettingParser:
    def parse(text: str) -> str:
        if text.lower() not in names:
            raise ValueError
        return text.lower()

    return SettingParser(f"one of {', '.join(names)}", parse)


def pattern(regex: str, allowed: str) -> SettingParser:
    def parse(text: str) -> str:
        if not re.fullmatch(regex, text):
            raise ValueError
        return text

    return SettingParser(allowed, parse)


def parse_switch(text: str) -> bool:
    if text.lower() not in ("true", "1", "false", "0"):
        raise ValueError
    return text.lower() in ("true", "1")


def parse_size(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,15}) ?([A-Za-z]{0,3})", text)
    if not match or match[2].lower() not in UNITS:
        raise ValueError
    size = int(match[1]) * UNITS[match[2].lower()]
    if size > SIZE_LIMIT:
        raise ValueError
    return size


def parse_memory(text: str) -> int | float:
    match = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,3})?) ?%", text)
    if match is None:
        size = parse_size(text)
        if size == 0:
            raise ValueError
        return size
    if not 0 < float(match[1]) <= 100:
        raise ValueError
    return float(match[1]) / 100


def parse_names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(re.fullmatch(MODEL_NAME, name) for name in names):
        raise ValueError
    return names


def parse_path(text: str) -> str:
    # Unprintable text cannot be shown in a message, and text that is not UTF-8 cannot be passed to a child in JSON.
    if not text or not text.isprintable():
        raise ValueError
    return text


def parse_base_folder(text: str) -> str:
    return f"{parse_path(text).rstrip('/')}/model"


def parse_submit_directory(text: str) -> str | None:
    # The SDK leaves an S3 address here for older containers; the platform has unpacked it into the model folder.
    path = unquote(text.removeprefix("file://")) if text.startswith("file://") else text
    return path if path.isprintable() and os.path.isdir(path) else None


def parse_program(text: str) -> str:
    if parse_path(text).startswith("/") or text.endswith("/") or ".." in text.split("/"):
        raise ValueError
    return text if text.endswith(".py") else f"{text}.py"  # older toolkits accept it without the suffix


def parse_port_range(text: str) -> tuple[int, int]:
    match = re.fullmatch("([0-9]{1,5})-([0-9]{1,5})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]) <= 65535:
        raise ValueError
    return int(match[1]), int(match[2])


def parse_log_level(text: str) -> str:
    names = {"notset": "debug", "warn": "warning", "critical": "error", "fatal": "error"}
    name = names.get(text.lower(), text.lower())
    if name in LEVELS:
        return name
    if not re.fullmatch("[0-9]{1,2}", text) or int(text) > 50:
        raise ValueError
    # rounded up, since a threshold between two levels lets the upper one through
    return LEVELS[min(max(1, math.ceil(int(text) / 10)), len(LEVELS)) - 1]


def parse_toolkit_timeout(text: str) -> float | Warned:
    # multi-model-server read minutes here, TorchServe and the SDK's documents seconds
    seconds = decimal(text)
    if seconds <= 0:
        raise ValueError
    return seconds if seconds <= HOUR else Warned(HOUR, f"counts as seconds, of which {HOUR:g} are the most")


def parse_batch_timeout(text: str) -> float | None:
    """Return the time-out of a batch transform job, ten minutes by default, which the platform does not tell its
    container.
    """
    return BATCH_TIME if parse_switch(text) else None


LEVELS = ("debug", "info", "warning", "error")
TOKEN = "[A-Za-z0-9!#$&^_.+-]+"  # RFC 6838 §4.2

# Parts joined by slashes, none of them hidden or "..".
MODEL_NAME = "(?=.{1,255}$)[A-Za-z0-9_][A-Za-z0-9_.@+=~ -]*(/[A-Za-z0-9_][A-Za-z0-9_.@+=~ -]*)*"

PATH = SettingParser("a path in printable UTF-8", parse_path)
BASE_FOLDER = SettingParser("the path of the folder above model/, in printable UTF-8", parse_base_folder)
SUBMIT_DIRECTORY = SettingParser("anything; only a folder that exists here counts", parse_submit_directory)
PROGRAM = SettingParser("the path of a Python file inside the code folder, such as inference.py", parse_program)
HOST = pattern("[A-Za-z0-9._:%-]{1,255}", "an address or a host name")
DEVICE = pattern("auto|cpu|mps|cuda|cuda:(0|[1-9][0-9]{0,3})", "auto, cpu, mps, cuda or cuda:N")
MEDIA_TYPE = pattern(f"{TOKEN}/{TOKEN}( ?;[ -+.-~-]*)?", "one media type, such as application/json")
TEXT = pattern("[ -~]{1,1000}", "printable ASCII, at most 1000 characters")
SWITCH = SettingParser("true or false", parse_switch)
SIZE = SettingParser("bytes, or a size such as 8MB or 100MiB, up to 1024GiB", parse_size)
MEMORY = SettingParser("a share such as 75%, or a size such as 512MiB or 8GB, above 0", parse_memory)
NAME = pattern(MODEL_NAME, "the name of a model below the model store, such as team/name")
NAMES = SettingParser("names of models below the model store, separated by commas", parse_names)
PORT_RANGE = SettingParser("LOW-HIGH, ports from 1 to 65535", parse_port_range)
LOG_LEVEL = SettingParser("debug, info, warning, error, critical or a Python level from 0 to 50", parse_log_level)
BATCH_TIMEOUT = SettingParser("true or false; true is 600 seconds", parse_batch_timeout)
TOOLKIT_TIMEOUT = SettingParser("a number of seconds above 0", parse_toolkit_timeout)
