"""``sagemaker_inference`` and ``sagemaker_pytorch_serving_container``, where those are missing.

Names and results are the same, except that arrays of pickled objects are refused.
"""

from __future__ import annotations

import importlib
import io
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from serving import claims, codecs
from serving.adapters import shims
from serving.adapters.toolkit import sagemaker_environment
from serving.codecs.exact import float32
from serving.codecs.measuring import GLANCED, csv_cost, json_cost, npz_cost
from serving.errors import BadRequest, ModelError
from serving.model.names import is_hidden
from serving.request import media_type
from serving.weights import check_weights, is_torchscript, load_torchscript

JSON, CSV, OCTET_STREAM, ANY = "application/json", "text/csv", "application/octet-stream", "*/*"
NPY, NPZ = "application/x-npy", "application/x-npz"


class BaseInferenceToolkitError(Exception):
    """An error of a script; ``status_code`` goes to the client."""

    def __init__(self, status_code: int, message: str, phrase: str) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.message = message
        self.phrase = phrase


class UnsupportedFormatError(Exception):
    def __init__(self, content_type: str) -> None:
        super().__init__(f"content type {content_type} is not supported: define input_fn or output_fn for it")


class GenericInferenceToolkitError(BaseInferenceToolkitError):
    def __init__(self, status_code: int, message: str | None = None, phrase: str | None = None) -> None:
        text = message or "Invalid Request"
        super().__init__(status_code, text, phrase or text)


def as_bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def json_to_numpy(string_like: str | bytes, dtype: Any = None) -> Any:
    claims.take(json_cost(as_bytes(string_like)))
    value = json.loads(string_like)
    claims.take(texts_cost(value))
    return np.array(value, dtype=dtype)


def has_text(value: Any) -> bool:
    """Return whether nested lists contain text, which makes numpy convert all to texts as long as the longest."""
    if not isinstance(value, list):
        return isinstance(value, str)
    kinds = set(map(type, value))
    return str in kinds or (list in kinds and any(map(has_text, value)))


def texts_cost(value: Any) -> int:
    """Return the bytes of numpy's array of lists with texts; 0 without texts."""
    if not has_text(value):
        return 0
    leaves: list[int] = []
    todo = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, list):
            todo += one
        else:
            leaves.append(len(one) if isinstance(one, str) else 32)
    return 4 * max(leaves) * len(leaves)


def csv_to_numpy(string_like: str | bytes, dtype: Any = None) -> Any:
    claims.take(csv_cost(as_bytes(string_like)))
    text = string_like if isinstance(string_like, str) else bytes(string_like).decode()
    if len(text) >= GLANCED:
        claims.take(texts_cost(text.replace("\n", ",").split(",")))
    return np.genfromtxt(io.StringIO(text), dtype=dtype, delimiter=",")


def npy_to_numpy(npy_array: bytes) -> Any:
    try:
        return codecs.decode_npy(npy_array, {})
    except BadRequest as exc:
        if type(exc) is not BadRequest:
            raise
        raise ValueError(f"{exc.message}; allow_pickle=False") from exc  # the same type as in the real package


def npz_to_sparse(npz_bytes: bytes) -> Any:
    import scipy.sparse

    claims.take(npz_cost(npz_bytes))
    return scipy.sparse.load_npz(io.BytesIO(npz_bytes))


DECODERS: dict[str, Callable[[Any], Any]] = {
    NPY: npy_to_numpy,
    CSV: csv_to_numpy,
    JSON: json_to_numpy,
    NPZ: npz_to_sparse,
}


def decode(obj: Any, content_type: str) -> Any:
    """Decode a body to an array. Raises UnsupportedFormatError."""
    decoder = DECODERS.get(media_type(content_type))
    if decoder is None:
        raise UnsupportedFormatError(content_type)
    return decoder(obj)


def array_to_json(array_like: Any) -> str:
    def default(value: Any) -> Any:
        if hasattr(value, "tolist"):
            return value.tolist()
        raise TypeError(f"{type(value).__name__} has no JSON form")

    return json.dumps(array_like, default=default)


def array_to_npy(array_like: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array_like, allow_pickle=False)
    return buffer.getvalue()


def array_to_csv(array_like: Any) -> str:
    stream = io.StringIO()
    np.savetxt(stream, array_like, delimiter=",", fmt="%s")
    return stream.getvalue()


ENCODERS: dict[str, Callable[[Any], Any]] = {NPY: array_to_npy, CSV: array_to_csv, JSON: array_to_json}


def encode(array_like: Any, content_type: str) -> Any:
    """Encode an array as the first known type in ``content_type``. Raises UnsupportedFormatError."""
    for part in content_type.split(","):
        encoder = ENCODERS.get(media_type(part))
        if encoder is not None:
            return encoder(array_like)
    raise UnsupportedFormatError(content_type)


class DefaultInferenceHandler:
    """The defaults, for scripts to subclass or to call."""

    def default_model_fn(self, model_dir: str, context: Any = None) -> Any:
        raise NotImplementedError("Please provide a model_fn implementation.")

    def default_input_fn(self, input_data: Any, content_type: str, context: Any = None) -> Any:
        return decode(input_data, content_type)

    def default_predict_fn(self, data: Any, model: Any, context: Any = None) -> Any:
        raise NotImplementedError("Please provide a predict_fn implementation.")

    def default_output_fn(self, prediction: Any, accept: str, context: Any = None) -> Any:
        kinds = [kind for kind in map(media_type, accept.split(",")) if kind in ENCODERS]
        return encode(prediction, accept), kinds[0]


def default_model_fn(model_dir: Path, device: str) -> Any:
    """Load ``model.pt``, else the only ``*.pt`` or ``*.pth`` file, as TorchScript. Raises ModelError."""
    files = [path for path in model_dir.iterdir() if path.is_file() and not is_hidden(path.name)]
    found = sorted(path for path in files if path.suffix in (".pt", ".pth"))
    chosen = [path for path in found if path.name == "model.pt"] or found
    if len(chosen) != 1:
        names = ", ".join(path.name for path in chosen) or "none"
        raise ModelError(f"without model_fn {model_dir} must hold model.pt or one *.pt or *.pth file; found {names}")
    check_weights(chosen[0])
    if not is_torchscript(chosen[0]):
        raise ModelError(f"{chosen[0].name} is no TorchScript file: define model_fn to load it")
    return load_torchscript(chosen[0], device)


class ModelLoadError(Exception):
    pass


class DefaultPytorchInferenceHandler(DefaultInferenceHandler):
    VALID_CONTENT_TYPES = (JSON, NPY)

    def default_model_fn(self, model_dir: str, context: Any = None) -> Any:
        import torch

        return default_model_fn(Path(model_dir), "cuda" if torch.cuda.is_available() else "cpu")

    def default_input_fn(self, input_data: Any, content_type: str, context: Any = None) -> Any:
        import torch

        return to_tensor(input_data, content_type, "cuda" if torch.cuda.is_available() else "cpu")

    def default_predict_fn(self, data: Any, model: Any, context: Any = None) -> Any:
        import torch

        with torch.no_grad():
            model.eval()
            return model(data)

    def default_output_fn(self, prediction: Any, accept: str, context: Any = None) -> Any:
        # By way of a list, so that a tensor's npy array is float64, as in the real package.
        return encode(prediction.detach().cpu().tolist() if hasattr(prediction, "detach") else prediction, accept)


def to_tensor(input_data: Any, content_type: str, device: str) -> Any:
    """Return a tensor: float32 for numbers of text, else the array's dtype. Raises BadRequest beyond float32."""
    import torch

    array = decode(input_data, content_type)
    text = media_type(content_type) in (JSON, CSV)
    return torch.from_numpy(float32(np.asarray(array, dtype=np.float64)) if text else array).to(device)


def read_file(path: str, mode: str = "r") -> Any:
    with open(path, mode) as file:
        return file.read()


def write_file(path: str, data: Any, mode: str = "w") -> None:
    with open(path, mode) as file:
        file.write(data)


def retrieve_content_type_header(request_property: dict[str, str]) -> str | None:
    names = ("content-type", "contenttype")
    return next((value for name, value in request_property.items() if name.lower() in names), None)


def parse_accept(accept: str | None) -> list[str]:
    return (accept or "").replace(" ", "").split(",")


def remove_crlf(illegal_string: str) -> str:
    return illegal_string.replace("\r", " ").replace("\n", " ")


def get_logger() -> logging.Logger:
    return logging.getLogger("sagemaker-inference")


def configure_logger() -> None:
    """Do nothing: its records are in the server's log already."""


CONTENT_TYPES = {
    "JSON": JSON,
    "CSV": CSV,
    "OCTET_STREAM": OCTET_STREAM,
    "ANY": ANY,
    "NPY": NPY,
    "NPZ": NPZ,
    "UTF8_TYPES": [JSON, CSV],
}


def refuse_pickles() -> None:
    """Replace the real package's npy decoder in this process, since it unpickles clients' arrays."""
    try:
        decoder = importlib.import_module("sagemaker_inference.decoder")
    except ImportError:
        return  # its own import fails, and the script will see that
    vars(decoder)["_npy_to_numpy"] = npy_to_numpy
    getattr(decoder, "_decoder_map", {})[NPY] = npy_to_numpy


def install() -> None:
    """Make both packages importable in this process."""
    made = shims.install(
        "sagemaker_inference",
        {
            "content_types": CONTENT_TYPES,
            "decoder": {
                "decode": decode,
                "_json_to_numpy": json_to_numpy,
                "_csv_to_numpy": csv_to_numpy,
                "_npy_to_numpy": npy_to_numpy,
                "_npz_to_sparse": npz_to_sparse,
                "_decoder_map": DECODERS,
            },
            "encoder": {
                "encode": encode,
                "_array_to_json": array_to_json,
                "_array_to_npy": array_to_npy,
                "_array_to_csv": array_to_csv,
                "_encoder_map": ENCODERS,
                "SUPPORTED_CONTENT_TYPES": {JSON, CSV, NPY},
            },
            "errors": {
                "BaseInferenceToolkitError": BaseInferenceToolkitError,
                "UnsupportedFormatError": UnsupportedFormatError,
                "GenericInferenceToolkitError": GenericInferenceToolkitError,
            },
            "default_inference_handler": {"DefaultInferenceHandler": DefaultInferenceHandler},
            "utils": {
                "read_file": read_file,
                "write_file": write_file,
                "retrieve_content_type_header": retrieve_content_type_header,
                "parse_accept": parse_accept,
                "remove_crlf": remove_crlf,
            },
            "logging": {"get_logger": get_logger, "configure_logger": configure_logger},
            "environment": sagemaker_environment.of_inference(),
            "parameters": sagemaker_environment.PARAMETERS,
        },
    )
    if not made:
        refuse_pickles()
    handler = {
        "DefaultPytorchInferenceHandler": DefaultPytorchInferenceHandler,
        "ModelLoadError": ModelLoadError,
        "DEFAULT_MODEL_FILENAME": "model.pt",
    }
    shims.install("sagemaker_pytorch_serving_container", {"default_pytorch_inference_handler": handler})
