"""Checkpoints: local folders of ``transformers``. Nothing is downloaded or unpickled, and none of their code is run."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from handlers.options import need
from serving.errors import ModelError
from serving.weights import check_weights


def load_checkpoint(name: str, folder: Path, dtype: torch.dtype) -> Any:
    """Load a checkpoint folder by the auto class ``name``, in evaluation mode. Raises ModelError."""
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} is no checkpoint of transformers: it has no config.json")
    for path in sorted(folder.glob("*.safetensors")):
        check_weights(path)
    # Only safetensors: a checkpoint's pytorch_model.bin is a pickle.
    model, info = load_pretrained(name, folder, dtype=dtype, use_safetensors=True, output_loading_info=True)
    missing = sorted(key for key in info["missing_keys"] if "pooler" not in key)
    if missing:  # transformers would continue with random numbers
        raise ModelError(f"{folder} has no weights for {', '.join(missing)[:200]} of {type(model).__name__}")
    return model.eval()


def load_pretrained(name: str, folder: Path, **words: Any) -> Any:
    """Load a local folder with a class of ``transformers``. Raises ModelError."""
    transformers = need("transformers", "text")
    try:
        loader = getattr(transformers, name)
        return loader.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **words)
    except (OSError, ValueError, ImportError) as exc:
        raise ModelError(f"{folder}: {name} cannot load it: {exc}") from exc


def cached_step(model: Any, ids: Tensor, state: Any) -> tuple[Tensor, Any]:
    """Run ``ids`` [1, n] after the keys and values in ``state``, None at first.

    Returns logits [vocabulary] and the new state.
    """
    # Newer releases of transformers call cache what older ones call past_key_values.
    name = "cache" if "cache" in names_of(type(model).forward) else "past_key_values"
    output = model(input_ids=ids, use_cache=True, **{name: state})
    return output.logits[0, -1], getattr(output, name)


@lru_cache
def names_of(function: Callable[..., Any]) -> frozenset[str]:
    """Return the names of a function's parameters."""
    return frozenset(inspect.signature(function).parameters)
