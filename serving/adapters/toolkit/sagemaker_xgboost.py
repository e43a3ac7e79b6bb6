"""``sagemaker_xgboost_container``, where it is missing: its encoder makes XGBoost's matrices.

The model's image has to bring XGBoost itself. For training there are only the names.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving import claims
from serving.adapters import shims
from serving.adapters.toolkit.sagemaker_containers import texts_of
from serving.adapters.toolkit.sagemaker_environment import TrainingEnv
from serving.adapters.toolkit.sagemaker_inference import CSV, UnsupportedFormatError, as_bytes
from serving.codecs.measuring import csv_cost, json_cost
from serving.errors import BadRequest
from serving.request import media_type

LIBSVM, X_LIBSVM = "text/libsvm", "text/x-libsvm"
X_PARQUET, X_RECORDIO_PROTOBUF = "application/x-parquet", "application/x-recordio-protobuf"
DELIMITERS = ",\t;| "
CELLS = 100_000_000  # most numbers of a matrix: a body of a few bytes can name any column


def csv_to_dmatrix(input: str | bytes, dtype: Any = None) -> Any:
    """Decode CSV; an empty field is missing. The delimiter is the first of ``DELIMITERS`` that the first line contains.

    Raises BadRequest or ValueError.
    """
    claims.take(csv_cost(as_bytes(input)))
    lines = text_of(input).strip("\r\n").splitlines()
    if not lines:
        raise BadRequest("the CSV has no rows")
    delimiter = next((one for one in DELIMITERS if one in lines[0]), ",")
    rows = [[cell.strip().strip('"') or "nan" for cell in line.split(delimiter)] for line in lines]
    return matrix(texts_of(rows).astype(dtype or np.float64))


def libsvm_to_dmatrix(string_like: str | bytes) -> Any:
    """Decode lines of ``column:value``; other parts of a line are its label.

    Columns count from 1, unless there is a column 0; a column that is left out is 0. Raises BadRequest.
    """
    claims.take(json_cost(as_bytes(string_like)))
    rows = [cells_of(line) for line in text_of(string_like).strip().splitlines()]
    named = [column for row in rows for column in row]
    if not named:
        raise BadRequest("the body has no libsvm line with a column")
    offset, last = min(1, min(named)), max(named)
    if offset < 0 or (last - offset + 1) * len(rows) > CELLS:
        raise BadRequest(f"libsvm: columns are {min(named)} to {last} in {len(rows)} rows; allowed: {CELLS} numbers")
    claims.take(8 * (last - offset + 1) * len(rows))
    data = np.zeros((len(rows), last - offset + 1))
    for index, row in enumerate(rows):
        for column, value in row.items():
            data[index, column - offset] = value
    return matrix(data)


def cells_of(line: str) -> dict[int, float]:
    pairs = (token.split(":", 1) for token in line.split() if ":" in token)
    return {int(column): float(value) for column, value in pairs}


def text_of(body: str | bytes) -> str:
    return body if isinstance(body, str) else bytes(body).decode()


def matrix(array: NDArray[Any]) -> Any:
    """Return an XGBoost DMatrix; one axis becomes one row."""
    import xgboost  # type: ignore[import-not-found,unused-ignore]

    return xgboost.DMatrix(array.reshape(1, -1) if array.ndim == 1 else array)


DECODERS: dict[str, Callable[[Any], Any]] = {
    CSV: csv_to_dmatrix,
    LIBSVM: libsvm_to_dmatrix,
    X_LIBSVM: libsvm_to_dmatrix,
}


def decode(obj: Any, content_type: str) -> Any:
    """Decode a body to a DMatrix. Raises UnsupportedFormatError."""
    decoder = DECODERS.get(media_type(content_type))
    if decoder is None:
        raise UnsupportedFormatError(content_type)
    return decoder(obj)


def json_to_jsonlines(json_data: Any) -> bytes:
    """Return the entries of an object's only list, one a line. Raises ValueError."""
    document = json_data if isinstance(json_data, dict) else json.loads(json_data)
    if len(document) != 1:
        raise ValueError("JSON response is not compatible for conversion to jsonlines.")
    return b"".join(f"{json.dumps(entry)}\n".encode() for entry in next(iter(document.values())))


def install() -> None:
    """Make the package importable in this process."""
    types = {"LIBSVM": LIBSVM, "X_LIBSVM": X_LIBSVM, "X_PARQUET": X_PARQUET, "X_RECORDIO_PROTOBUF": X_RECORDIO_PROTOBUF}
    encoder = {
        "decode": decode,
        "csv_to_dmatrix": csv_to_dmatrix,
        "libsvm_to_dmatrix": libsvm_to_dmatrix,
        "json_to_jsonlines": json_to_jsonlines,
        "_dmatrix_decoders_map": DECODERS,
    }
    training = ("get_dmatrix", "get_size", "get_content_type", "validate_data_file_path", "check_data_redundancy")
    shims.install(
        "sagemaker_xgboost_container",
        {
            "encoder": encoder,
            "constants.xgb_content_types": types,
            "data_utils": dict.fromkeys(training, TrainingEnv),
            "distributed": {"Rabit": TrainingEnv, "rabit_run": TrainingEnv},
            "checkpointing": {},
            "callback": {},
        },
    )
