"""The request headers of the platform's InvokeEndpoint and their allowed values.

Names and patterns are those of the platform's API; other headers are ignored, as the platform asks of a container.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from serving.errors import BadRequest

HOST = "[a-zA-Z0-9](-*[a-zA-Z0-9])*"
PRINTABLE = r"[!-~][ -~]*"
NEW_SESSION = "NEW_SESSION"


class Field(NamedTuple):
    """A header, with its ``name`` in the platform's API. A value has at most ``limit`` characters and matches
    ``pattern``.
    """

    name: str
    limit: int
    pattern: re.Pattern[str]
    allowed: str


def field(name: str, limit: int, pattern: str, allowed: str) -> Field:
    return Field(name, limit, re.compile(pattern), f"{allowed}, at most {limit} characters")


ASCII = r"[\x00-\x7f]*"
HEADERS: Mapping[str, Field] = {
    "custom-attributes": field("CustomAttributes", 1024, ASCII, "ASCII"),
    "target-model": field("TargetModel", 1024, PRINTABLE, "printable ASCII that does not begin with a blank"),
    "target-variant": field("TargetVariant", 63, HOST, "letters and digits, hyphens between them"),
    "target-container-hostname": field("TargetContainerHostname", 63, HOST, "letters and digits, hyphens between them"),
    "inference-id": field("InferenceId", 64, PRINTABLE, "printable ASCII that does not begin with a blank"),
    "enable-explanations": field("EnableExplanations", 64, "[ -~]+", "printable ASCII"),
    "inference-component": field("InferenceComponentName", 63, HOST, "letters and digits, hyphens between them"),
    "prefix-aware-id": field("PrefixAwareId", 64, PRINTABLE, "printable ASCII that does not begin with a blank"),
    "session-id": field("SessionId", 256, f"{NEW_SESSION}|{HOST}", f"{NEW_SESSION} or letters, digits, hyphens"),
}
CONTENT_TYPE = field("ContentType", 1024, ASCII, "ASCII")
ACCEPT = field("Accept", 1024, ASCII, "ASCII")


def check(header: Field, value: str) -> None:
    """Check a header's value. Raises BadRequest, which names the field, the value and what is allowed."""
    if len(value) > header.limit or not header.pattern.fullmatch(value):
        raise BadRequest(f"{header.name} is {value[:80]!r}; allowed: {header.allowed}")


def check_all(content_type: str, accept: str, sagemaker: Mapping[str, str]) -> None:
    """Check all headers. Raises BadRequest for the first one that the platform's API would refuse."""
    check(CONTENT_TYPE, content_type)
    check(ACCEPT, accept)
    for name, value in sagemaker.items():
        known = HEADERS.get(name)
        if known is not None and value:
            check(known, value)
