"""Input of DJL Serving's scripts, whether ``djl_python`` is installed or not."""

from __future__ import annotations

import csv
import io
from typing import Any

from serving import codecs
from serving.adapters.djl import ndlist
from serving.adapters.djl.pairs import PairList
from serving.request import media_type


class Input:
    """One request, or a batch with ``batch_000.`` and so on before the names; empty while the script loads."""

    def __init__(self) -> None:
        self.function_name: str | None = None
        self.properties: dict[str, Any] = {}
        self.content = PairList()

    def __str__(self) -> str:
        parts = [f"\n{key}: {self.get_data(key)}" for key in self.content.keys]
        return f"properties: {self.properties}{''.join(parts)}"

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
        for key, value in zip(self.content.keys, self.content.values, strict=True):
            assert key is not None
            batch[int(key[6:9])].content.add(key[10:], value)
        return batch

    def get_function_name(self) -> str | None:
        return self.function_name

    def get_properties(self) -> dict[str, Any]:
        return self.properties

    def get_property(self, key: str) -> Any:
        return next((value for name, value in self.properties.items() if name.lower() == key.lower()), None)

    def get_content(self) -> PairList:
        return self.content

    def contains_key(self, key: str) -> bool:
        return self.content.get(key) is not None

    def get_as_bytes(self, key: str | None = None) -> Any:
        """Return the part of that name; without ``key`` ``data``, else the first part. Raises KeyError."""
        if self.content.is_empty():
            return None
        value = self.content.get(key or "data")
        if value is None and key:
            raise KeyError(f"the request has no part named {key}")
        return self.content.value_at(0) if value is None else value

    def get_as_string(self, key: str | None = None) -> str:
        return codecs.decode_text(self.get_as_bytes(key), str(self.get_property("content-type") or ""))

    def get_as_json(self, key: str | None = None) -> Any:
        return codecs.parse_json(self.get_as_bytes(key), str(self.get_property("content-type") or ""))

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
        kind = media_type(str(self.get_property("content-type") or ""))
        if kind == "tensor/npz":
            return self.get_as_npz(key)
        if kind == "tensor/ndlist":
            return self.get_as_numpy(key)
        if kind == codecs.JSON:
            return self.get_as_json(key)
        if kind.startswith("text/"):
            return self.get_as_string(key)
        return self.get_as_image(key) if kind.startswith("image/") else self.get_as_bytes(key)
