"""``sagemaker_containers``, the package of SageMaker's scikit-learn and XGBoost containers, where it is missing.

Names and results are the same, except that arrays of pickled objects are refused. Modules for training and for starting
a server are empty, since scripts only import them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving import claims
from serving.adapters import shims
from serving.adapters.toolkit import sagemaker_environment
from serving.adapters.toolkit import sagemaker_inference as toolkit
from serving.adapters.toolkit.sagemaker_inference import CSV, JSON, NPY, UnsupportedFormatError, as_bytes
from serving.codecs.measuring import csv_cost
from serving.request import media_type

TEXT = ("text/", "application/xml")  # types to which flask adds a charset


class ClientError(Exception):
    pass


def rows_of(text: str) -> list[list[str]]:
    """Return the rows of CSV without empty lines. Raises csv.Error."""
    return [row for row in csv.reader(io.StringIO(text), strict=True) if row]


def csv_to_numpy(string_like: str | bytes, dtype: Any = None) -> Any:
    """Return numbers as float64 or ``dtype``, else texts; a single row or column becomes one axis.

    Raises ClientError.
    """
    claims.take(csv_cost(as_bytes(string_like)))
    text = string_like if isinstance(string_like, str) else bytes(string_like).decode()
    try:
        array = texts_of(rows_of(text)).squeeze()
    except (csv.Error, ValueError) as exc:
        raise ClientError(f"the CSV cannot be decoded: {exc}") from exc
    if dtype is not None and np.dtype(dtype).kind in "SU":
        claims.take(toolkit.texts_cost(array.reshape(-1).tolist()))
    try:
        return array.astype(np.float64 if dtype is None else dtype)
    except ValueError as exc:
        if dtype is not None:
            raise ClientError(f"the CSV has values that are no {dtype}: {exc}") from exc
    claims.take(toolkit.texts_cost(array.reshape(-1).tolist()))
    return array.astype(str)


def texts_of(rows: list[list[str]]) -> NDArray[Any]:
    """Return rows of texts as objects: numpy's own texts all take the length of the longest. Raises ValueError."""
    if len({len(row) for row in rows}) > 1:
        raise ValueError("its rows have different lengths")
    return np.array(rows, dtype=object)


def array_to_csv(array_like: Any) -> str:
    array = np.array(array_like)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n", strict=True)
    writer.writerows([str(value) for value in row] for row in (array.reshape(-1, 1) if array.ndim == 1 else array))
    return stream.getvalue()


DECODERS: dict[str, Callable[[Any], Any]] = {
    NPY: toolkit.npy_to_numpy,
    CSV: csv_to_numpy,
    JSON: toolkit.json_to_numpy,
}
ENCODERS: dict[str, Callable[[Any], Any]] = {
    NPY: toolkit.array_to_npy,
    CSV: array_to_csv,
    JSON: toolkit.array_to_json,
}


def decode(obj: Any, content_type: str) -> Any:
    """Decode a body to an array. Raises UnsupportedFormatError."""
    decoder = DECODERS.get(media_type(content_type))
    if decoder is None:
        raise UnsupportedFormatError(content_type)
    return decoder(obj)


def encode(array_like: Any, content_type: str) -> Any:
    """Encode an array as a body. Raises UnsupportedFormatError."""
    encoder = ENCODERS.get(media_type(content_type))
    if encoder is None:
        raise UnsupportedFormatError(content_type)
    return encoder(array_like)


class WorkerResponse:
    """``worker.Response``, flask's in the real package. ``accept`` has no effect, as there."""

    default_mimetype = JSON

    def __init__(
        self,
        response: Any = None,
        accept: str | None = None,
        status: int | str = 200,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
        mimetype: str | None = None,
        direct_passthrough: bool = False,
    ) -> None:
        self.response = response
        self.status_code = int(status) if isinstance(status, int) else int(status.split()[0])
        self.headers = dict(headers or ())
        self.mimetype = media_type(mimetype or JSON)
        text = self.mimetype.startswith(TEXT) or self.mimetype.endswith("+xml")
        bare = mimetype or JSON
        self.content_type = f"{bare}; charset=utf-8" if text and "charset" not in bare else bare

    def get_data(self) -> bytes:
        if self.response is None:
            return b""
        if isinstance(self.response, str | bytes | bytearray | memoryview):
            return as_bytes(self.response) if isinstance(self.response, str) else bytes(self.response)
        return b"".join(as_bytes(part) for part in self.response)

    @property
    def data(self) -> bytes:
        return self.get_data()


def default_model_fn(model_dir: str) -> Any:
    raise NotImplementedError("Please provide a model_fn implementation.")


MODULES_OF_NAMES = (
    *("entry_point", "files", "functions", "logging", "mapping", "modules", "mpi", "params", "process", "runner"),
    *("server", "trainer"),
)
OF_ENCODERS = {
    "decode": decode,
    "encode": encode,
    "csv_to_numpy": csv_to_numpy,
    "json_to_numpy": toolkit.json_to_numpy,
    "npy_to_numpy": toolkit.npy_to_numpy,
    "array_to_csv": array_to_csv,
    "array_to_json": toolkit.array_to_json,
    "array_to_npy": toolkit.array_to_npy,
    "_decoders_map": DECODERS,
    "_encoders_map": ENCODERS,
}


def install() -> None:
    """Make the package importable in this process."""
    modules: dict[str, Mapping[str, object]] = {
        "content_types": {name: value for name, value in toolkit.CONTENT_TYPES.items() if name != "NPZ"},
        "encoders": OF_ENCODERS,
        "env": sagemaker_environment.of_containers(),
        "errors": {"ClientError": ClientError, "UnsupportedFormatError": UnsupportedFormatError},
        "transformer": {"default_model_fn": default_model_fn, "default_input_fn": decode},
        "worker": {"Response": WorkerResponse},
        **{name: {} for name in MODULES_OF_NAMES},
    }
    framework = {f"beta.framework.{name}": members for name, members in modules.items()}
    private = {f"_{name}": members for name, members in modules.items() if name != "entry_point"}
    training = {"training_env": sagemaker_environment.TrainingEnv}
    shims.install("sagemaker_containers", {"entry_point": {}, "beta.framework": training, **private, **framework})
