"""EmbeddingsHandler: texts to vectors, by any ``transformers`` encoder, also as OpenAI's ``/v1/embeddings``."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from handlers.options import one_of, overridable
from handlers.text import TextHandler, TextOutput, Texts
from serving import BadRequest, Request, codecs
from serving.errors import ModelError
from serving.model.modelfile import unmarked

OPENAI = "/v1/embeddings"
MODES = {"pooling_mode_cls_token": "cls", "pooling_mode_lasttoken": "last", "pooling_mode_mean_tokens": "mean"}


class EmbeddingsHandler(TextHandler):
    """A handler that maps a text to a float32 vector, a list of texts to a list of vectors.

    The answer is JSON, npy or any other type of arrays.
    """

    post_paths = (OPENAI,)

    @overridable
    def load(
        self,
        model_dir: Path,
        device: str,
        checkpoint: str = ".",
        max_length: int | None = None,
        truncate: bool = True,
        max_texts: int = 1024,
        dtype: str = "float32",
        pooling: str | None = None,
        normalized: bool = True,
    ) -> None:
        """Load the checkpoint.

        ``pooling`` of the last layer is ``mean`` over tokens, the first (``cls``) or the ``last``. By default it is
        that of a sentence-transformers folder's ``1_Pooling``, else ``mean``. ``normalized`` vectors have length 1. The
        rest is as for TextHandler.
        """
        super().load(model_dir, device, checkpoint, max_length, truncate, max_texts, dtype)
        self.pooling = one_of("pooling", pooling or read_pooling(model_dir / checkpoint), "mean", "cls", "last")
        self.normalized = normalized

    def decode(self, request: Request) -> Texts:
        texts = super().decode(request)
        if request.path == OPENAI:
            self.check_wish(codecs.parse_json(request.body, request.content_type))
        return texts

    def check_wish(self, wish: Any) -> None:
        """Raise BadRequest for options of OpenAI's API that this handler lacks."""
        if not isinstance(wish, dict):
            raise BadRequest(f"a request to {OPENAI} is a JSON object")
        if wish.get("encoding_format", "float") not in ("float", "base64"):
            raise BadRequest(f"encoding_format is {wish['encoding_format']!r}; allowed: float, base64")
        if wish.get("dimensions") not in (None, self.model.config.hidden_size):
            raise BadRequest(f"dimensions is {wish['dimensions']!r}; allowed: {self.model.config.hidden_size}")

    def outputs(self, output: Any, mask: Tensor) -> Tensor:
        vectors = self.pool(output.last_hidden_state.float(), mask)
        return normalize(vectors, dim=-1) if self.normalized else vectors

    def pool(self, states: Tensor, mask: Tensor) -> Tensor:
        """Pool states [n, tokens, width] with mask [n, tokens] to [n, width]."""
        if self.pooling == "cls":
            return states[:, 0]
        if self.pooling == "last":
            return states[torch.arange(len(states), device=states.device), mask.sum(1) - 1]
        weights = mask[..., None].float()
        return (states * weights).sum(1) / weights.sum(1)

    def encode(self, output: Any, request: Request) -> Any:
        if request.path == OPENAI:
            return self.openai(output, codecs.parse_json(request.body, request.content_type))
        return output.rows[0] if output.single else output.rows

    def openai(self, output: TextOutput, wish: dict[str, Any]) -> dict[str, Any]:
        """Return the answer of OpenAI's API reference, "Create embeddings"."""
        is_text = wish.get("encoding_format") == "base64"
        vectors = [base64.b64encode(row.numpy().tobytes()).decode() if is_text else row for row in output.rows]
        return {
            "object": "list",
            "model": wish.get("model", ""),
            "data": [{"object": "embedding", "index": i, "embedding": one} for i, one in enumerate(vectors)],
            "usage": {"prompt_tokens": output.tokens, "total_tokens": output.tokens},
        }


def read_pooling(folder: Path) -> str:
    """Return the pooling of a sentence-transformers folder, else ``mean``. Raises ModelError."""
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return "mean"
    chosen = [
        mode
        for mode, is_on in json.loads(unmarked(path.read_bytes())).items()
        if mode.startswith("pooling_mode_") and is_on
    ]
    if len(chosen) != 1 or chosen[0] not in MODES:
        raise ModelError(f"{path} asks for {', '.join(chosen) or 'nothing'}; known: {', '.join(MODES)}")
    return MODES[chosen[0]]
