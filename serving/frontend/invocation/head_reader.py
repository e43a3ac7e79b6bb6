"""HeadReader: what the head of an invocation says, checked."""

from __future__ import annotations

from serving.errors import ServingError
from serving.frontend.http.headers import Headers, printable, read_encoding, read_headers
from serving.frontend.http.target import read_target
from serving.frontend.invocation.invocation_head import InvocationHead
from serving.http.headers import NEW_SESSION, check_all
from serving.http.paths import INVOCATIONS, invoked_model, is_own
from serving.model.model import DEFAULT_MODEL
from serving.model.names import model_name, target_name

COMMON = INVOCATIONS.encode()
KNOWN = 1024  # entries in each cache


class HeadReader:
    """Reads the heads of invocations. ``many``: the server has models by name."""

    def __init__(self, many: bool) -> None:
        self._many = many
        self._sound: set[tuple[str, str]] = set()
        self._models: dict[str, str] = {}

    def read(self, url: bytes, headers: Headers) -> InvocationHead | None:
        """Parse the head of a POST; returns None where it is no invocation. Raises BadRequest where the target is no
        URL.
        """
        named, path = None, ""
        if url != COMMON:
            path = read_target(url).path
            named = invoked_model(path) if self._many else None
            if named is not None or path == INVOCATIONS:
                path = ""
            elif is_own(path):
                return None
        content_type, accept, sagemaker = read_headers(headers)
        model = encoding = ""
        error: ServingError | None = None
        try:
            if sagemaker or (content_type, accept) not in self._sound:
                self._check(content_type, accept, sagemaker)
            encoding = read_encoding(headers)
            model = self._model(named, sagemaker)
        except ServingError as exc:
            error = exc.with_traceback(None)
        session = sagemaker.get("session-id")
        continues = session not in (None, NEW_SESSION)
        return InvocationHead(
            headers=headers,
            model=model,
            load=self._many and named is None and not continues,
            content_type=content_type,
            accept=accept,
            sagemaker=sagemaker,
            attributes=sagemaker.get("custom-attributes"),
            id=printable(sagemaker.get("inference-id", "")[:64]),
            path=path,
            encoding=encoding,
            continues=continues,
            error=error,
            is_plain=bool(model) and error is None and session is None and not path and not encoding,
        )

    def named_model(self, headers: Headers) -> str:
        """Return the model that the headers of a request name, "" where they name none. Raises BadRequest."""
        content_type, accept, sagemaker = read_headers(headers)
        check_all(content_type, accept, sagemaker)
        return self._model(None, sagemaker)

    def _check(self, content_type: str, accept: str, sagemaker: dict[str, str]) -> None:
        check_all(content_type, accept, sagemaker)
        if len(self._sound) >= KNOWN:
            self._sound.clear()
        self._sound.add((content_type, accept))

    def _model(self, named: str | None, sagemaker: dict[str, str]) -> str:
        """Return the model that the path or the header names, "" where none does. Raises BadRequest."""
        if not self._many:
            return DEFAULT_MODEL
        if named is not None:
            return model_name(named)
        word = sagemaker.get("target-model", "")
        if not word:
            return ""
        found = self._models.get(word)
        if found is None:
            found = target_name(word)
            if len(self._models) >= KNOWN:
                self._models.clear()
            self._models[word] = found
        return found
