"""Input and Output of DJL Serving's scripts, for where ``djl_python`` itself is missing."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from serving import codecs
from serving.errors import HandlerError
from serving.request import media_type
from serving.worker.djl import ndlist

FORMATTERS = ("json", "jsonlines", "sse")


class Content:
    """Parts of a message in order, with their names or None."""

    def __init__(self) -> None:
        self.pairs: list[tuple[str | None, Any]] = []

    def add(self, key: str | None, value: Any) -> None:
        self.pairs.append((key, value))

    def get(self, key: str) -> Any:
        return next((value for name, value in self.pairs if name == key), None)

    def key_at(self, index: int) -> str | None:
        return self.pairs[index][0]

    def value_at(self, index: int) -> Any:
        return self.pairs[index][1]

    def get_keys(self) -> list[str | None]:
        return [name for name, _ in self.pairs]

    def get_values(self) -> list[Any]:
        return [value for _, value in self.pairs]

    def size(self) -> int:
        return len(self.pairs)

    def is_empty(self) -> bool:
        return not self.pairs


class Input:
    """One request, or several with ``batch_000_`` and so on before their names; without content while it loads."""

    def __init__(self) -> None:
        self.function_name: str | None = None
        self.properties: dict[str, str] = {}
        self.content = Content()

    def is_empty(self) -> bool:
        return self.content.is_empty()

    def is_batch(self) -> bool:
        return "batch_size" in self.properties

    def get_batch_size(self) -> int:
        return int(self.properties.get("batch_size", "1"))

    def get_batches(self) -> list[Input]:
        if not self.is_batch():
            return [self]
        batch = [Input() for _ in range(self.get_batch_size())]
        for name, value in self.properties.items():
            if name.startswith("batch_") and name != "batch_size":
                batch[int(name[6:9])].properties[name[10:]] = value
        for key, value in self.content.pairs:
            assert key is not None
            batch[int(key[6:9])].content.add(key[10:], value)
        return batch

    def get_function_name(self) -> str | None:
        return self.function_name

    def get_properties(self) -> dict[str, str]:
        return self.properties

    def get_property(self, key: str) -> str | None:
        return next((value for name, value in self.properties.items() if name.lower() == key.lower()), None)

    def get_content(self) -> Content:
        return self.content

    def contains_key(self, key: str) -> bool:
        return self.content.get(key) is not None

    def get_as_bytes(self, key: str | None = None) -> Any:
        """The part of that name, or else ``data``, or else the first. Raises KeyError."""
        if self.content.is_empty():
            return None
        value = self.content.get(key or "data")
        if value is None and key:
            raise KeyError(f"the request has no part named {key}")
        return self.content.value_at(0) if value is None else value

    def get_as_string(self, key: str | None = None) -> str:
        return bytes(self.get_as_bytes(key)).decode()

    def get_as_json(self, key: str | None = None) -> Any:
        return codecs.parse_json(self.get_as_bytes(key))

    def get_as_csv(self, key: str | None = None) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(self.get_as_string(key))))

    def get_as_image(self, key: str | None = None) -> Any:
        from PIL import Image

        body = self.get_as_bytes(key)
        image = Image.open(io.BytesIO(body))
        codecs.take_picture(image, body)
        return image

    def get_as_npz(self, key: str | None = None) -> list[Any]:
        return list(codecs.decode_npz(self.get_as_bytes(key), {}).values())

    def get_as_numpy(self, key: str | None = None) -> list[Any]:
        return ndlist.read(self.get_as_bytes(key))

    def get_data(self, key: str | None = None) -> Any:
        kind = media_type(self.get_property("content-type") or "")
        if kind == "tensor/npz":
            return self.get_as_npz(key)
        if kind == "tensor/ndlist":
            return self.get_as_numpy(key)
        if kind == codecs.JSON:
            return self.get_as_json(key)
        if kind.startswith("text/"):
            return self.get_as_string(key)
        return self.get_as_image(key) if kind.startswith("image/") else self.get_as_bytes(key)


class Output:
    """One answer, or with ``batch_index`` or one part a request those of a whole batch."""

    def __init__(self, code: int = 200, message: str = "OK") -> None:
        self.code = code
        self.message = message
        self.properties: dict[str, str] = {}
        self.content = Content()
        self.indices: list[int | None] = []
        self.stream: tuple[Iterator[Any], str | Callable[[Any], Any] | None] | None = None

    def set_code(self, code: int) -> Output:
        self.code = code
        return self

    def set_message(self, message: str) -> Output:
        self.message = message
        return self

    def add_property(self, key: str, val: str) -> Output:
        self.properties[key] = val
        return self

    def add(self, value: Any, key: str | None = None, batch_index: int | None = None) -> Output:
        if not isinstance(value, str | bytes | bytearray | memoryview):
            return self.add_as_json(value, key, batch_index)
        self.content.add(key, value.encode() if isinstance(value, str) else bytes(value))
        self.indices.append(batch_index)
        return self

    def add_as_json(self, val: Any, key: str | None = None, batch_index: int | None = None) -> Output:
        text = json.dumps(val, ensure_ascii=False, allow_nan=False, indent=2, separators=(",", ":"), default=plain)
        return self.add(text, key, batch_index)

    def add_as_npz(self, np_list: Sequence[Any], key: str | None = None, batch_index: int | None = None) -> Output:
        import numpy as np

        buffer = io.BytesIO()
        np.savez(buffer, *np_list)
        return self.add(buffer.getvalue(), key, batch_index)

    def add_as_numpy(self, np_list: Any, key: str | None = None, batch_index: int | None = None) -> Output:
        """``np_list`` is an array or a list of some."""
        return self.add(ndlist.write(np_list), key, batch_index)

    def error(self, error: str, code: int = 424, message: str = "prediction failure") -> Output:
        self.code, self.message = code, message
        self.add_property("content-type", codecs.JSON)
        return self.add_as_json({"code": code, "message": message, "error": error})

    def add_stream_content(
        self, stream_content: Any, output_formatter: str | Callable[[Any], Any] | None = None
    ) -> Output:
        if isinstance(output_formatter, str) and output_formatter not in FORMATTERS:
            raise ValueError(f"output_formatter is {output_formatter!r}; allowed: a function, {', '.join(FORMATTERS)}")
        self.stream = (iter(stream_content), output_formatter)
        return self

    def finalize(self) -> Output:
        return self

    def of(self, index: int, size: int) -> bytes:
        """The body for one request of a batch of ``size``. Raises HandlerError."""
        own = [value for (_, value), at in zip(self.content.pairs, self.indices, strict=True) if at == index]
        if not own and self.content.size() == size:
            own = [self.content.value_at(index)]
        if len(own) != 1:
            raise HandlerError(f"the output has {self.content.size()} parts for {size} requests")
        return bytes(own[0])

    def property(self, name: str, index: int) -> str | None:
        """What is said of one request of a batch, or else of all."""
        by_name = {key.lower(): value for key, value in self.properties.items()}
        return by_name.get(f"batch_{index:03d}_{name}", by_name.get(name))


def plain(value: Any) -> Any:
    """Numbers of numpy and times, as JSON can hold them."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
