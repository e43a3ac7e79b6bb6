"""Output of DJL Serving's scripts, encoded as DJL Serving would send it."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from serving import codecs
from serving.adapters.djl import ndlist
from serving.adapters.djl.pairs import PairList
from serving.errors import HandlerError
from serving.system import log

OF_ONE = re.compile(r"batch_(\d+)\.")  # prefix of the names of one request's parts


def json_lines(chunk: Any) -> str:
    return json.dumps({"outputs": chunk}) + "\n"


def events(chunk: Any) -> str:
    return f"data: {json.dumps(chunk)}\n\n"


NAMED: dict[str, Callable[[Any], str]] = {"json": json_lines, "jsonlines": json_lines, "sse": events}
TYPES: dict[Callable[[Any], Any], str] = {json_lines: codecs.JSON_LINES[0], events: "text/event-stream"}


class Output:
    """One answer, or the answers to a whole batch, by ``batch_index`` or with one part a request."""

    def __init__(self, code: int = 200, message: str = "OK") -> None:
        self.code = code
        self.message = message
        self.properties: dict[str, Any] = {}
        self.content = PairList()
        self.stream_content: Any = None
        self.stream_output_formatter: Callable[[Any], Any] | None = None
        self.finalize_function: Callable[..., Any] | None = None
        self.finalize_args: tuple[Any, ...] | None = None

    def __str__(self) -> str:
        kinds = {key: f"type: {type(value)}" for key, value in zip(self.content.keys, self.content.values, strict=True)}
        description = {"code": self.code, "message": self.message, "properties": self.properties, "content": kinds}
        return json.dumps(description, indent=2)

    def set_code(self, code: int) -> Output:
        self.code = code
        return self

    def set_message(self, message: str) -> Output:
        self.message = message
        return self

    def add_property(self, key: str, val: Any) -> Output:
        self.properties[key] = val
        return self

    def get_properties(self) -> dict[str, Any]:
        return self.properties

    def get_property(self, key: str) -> Any:
        return self.properties.get(key)

    def add(self, value: Any, key: Any = None, batch_index: int | None = None) -> Output:
        if key is not None and not isinstance(key, str):
            log.warning("the name of a part of an output is no text", name=str(key))
            key = str(key)
        if batch_index is not None:
            key = f"batch_{batch_index}.{key or ''}"
        self.content.add(key, as_bytes(value))
        return self

    def add_as_json(self, val: Any, key: str | None = None, batch_index: int | None = None) -> Output:
        return self.add(encoded(val), key, batch_index)

    def add_as_npz(self, np_list: Sequence[Any], key: str | None = None, batch_index: int | None = None) -> Output:
        import numpy as np

        buffer = io.BytesIO()
        np.savez(buffer, *np_list)
        return self.add(buffer.getvalue(), key, batch_index)

    def add_as_numpy(self, np_list: Any, key: str | None = None, batch_index: int | None = None) -> Output:
        """Add an array or a list of arrays."""
        return self.add(ndlist.write(np_list), key, batch_index)

    def error(self, error: str, code: int = 424, message: str = "invoke handler failure") -> Output:
        self.code, self.message = code, message
        self.add_property("content-type", codecs.JSON)
        return self.add_as_json({"code": code, "message": message, "error": error})

    def add_stream_content(
        self, stream_content: Any, output_formatter: str | Callable[[Any], Any] | None = json_lines
    ) -> Output:
        """Set the chunks of a stream.

        ``output_formatter`` may be a name of ``NAMED``; None sends the chunks unchanged.
        """
        if isinstance(output_formatter, str):
            if output_formatter not in NAMED:
                allowed = ", ".join(NAMED)
                raise ValueError(f"output_formatter is {output_formatter!r}; allowed: a function, {allowed}")
            output_formatter = NAMED[output_formatter]
        self.stream_content, self.stream_output_formatter = stream_content, output_formatter
        return self

    def finalize(self, finalize_function: Callable[..., Any], *args: Any) -> Output:
        """Set a function to call once the answer is complete or its client has left."""
        self.finalize_function, self.finalize_args = finalize_function, args
        return self

    def execute_finalize(self) -> Any:
        return None if self.finalize_function is None else self.finalize_function(*self.finalize_args or ())

    def of(self, index: int, size: int) -> bytes:
        """Return the body for request ``index`` of ``size``: its part named ``data``, or else its first.

        Raises HandlerError.
        """
        if size == 1:
            return b"" if self.content.is_empty() else bytes(first(self.content))
        own = PairList()
        for key, value in zip(self.content.keys, self.content.values, strict=True):
            match = OF_ONE.match(key or "")
            if match is not None and int(match[1]) == index:
                own.add((key or "")[match.end() :], value)
        if own.is_empty() and self.content.size() == size:
            own.add(value=self.content.value_at(index))
        if own.size() != 1:
            raise HandlerError(f"the output has {self.content.size()} parts for {size} requests")
        return bytes(own.value_at(0))

    def property(self, name: str, index: int) -> str | None:
        """Return a property of one request of a batch, or else of all."""
        by_name = {key.lower(): str(value) for key, value in self.properties.items()}
        own = (by_name.get(f"batch_{index:03d}{mark}{name}") for mark in "._")
        return next((value for value in own if value is not None), by_name.get(name))


class FormattedChunks:
    """The chunks of a stream, each as DJL Serving sends it.

    The output's finalize function runs once, at the end or where the stream is closed.
    """

    def __init__(self, output: Output) -> None:
        self._output: Output | None = output
        self._formatter = output.stream_output_formatter
        self._content = iter(output.stream_content)

    def __iter__(self) -> FormattedChunks:
        return self

    def __next__(self) -> bytes:
        try:
            chunk = next(self._content)
            return bytes(as_bytes(chunk if self._formatter is None else self._formatter(chunk)))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        output, self._output = self._output, None
        if output is None:
            return
        try:
            close = getattr(self._content, "close", None)
            if close is not None:
                close()
        finally:
            finish(output)


def finish(output: Output) -> None:
    """Run the output's finalize function. A failure is only logged: the answer is complete."""
    try:
        output.execute_finalize()
    except Exception as exc:
        log.error("the finalize function of an output failed", exc=exc)


def first(content: PairList) -> Any:
    value = content.get("data")
    return content.value_at(0) if value is None else value


def as_bytes(value: Any) -> bytes | bytearray:
    """Return text as UTF-8, bytes unchanged, and anything else as JSON. Raises TypeError or ValueError."""
    if isinstance(value, bytearray):
        return value
    if isinstance(value, bytes | memoryview):
        return bytearray(value)
    return value.encode() if isinstance(value, str) else encoded(value)


def encoded(value: Any) -> bytearray:
    """Encode as JSON. Raises TypeError for a value without JSON form, ValueError for NaN and infinities."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2, separators=(",", ":"), default=plain)
    return bytearray(text.encode())


def plain(value: Any) -> Any:
    """Convert arrays, tensors, their numbers and times to JSON values. Raises TypeError for others."""
    if isinstance(value, datetime):
        return str(value)
    if hasattr(value, "tolist") and not isinstance(value, type):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no form in JSON")
