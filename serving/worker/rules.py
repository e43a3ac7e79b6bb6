"""Rules: what the settings say of calls and their answers."""

from __future__ import annotations

from dataclasses import dataclass

from serving import codecs
from serving.config.config import Config


@dataclass(frozen=True, slots=True)
class Rules:
    """Sizes are in bytes with 0 for no limit, times in seconds. ``stream_idle`` is that of Streams.

    ``bad_record`` stands for a bad record in a body of many; without one such a body fails as a whole. ``timeout`` is
    the model's: the most that one call of user code may take.
    """

    default_accept: str = codecs.JSON
    session_max_bytes: int = 0
    stream_idle: float = 60.0
    bad_record: str | None = None
    timeout: float = 60.0

    @classmethod
    def of(cls, config: Config, timeout: float) -> Rules:
        """``timeout`` of the model, in seconds."""
        return cls(
            config.default_accept, config.session_max_bytes, config.stream_idle_timeout, config.bad_record, timeout
        )


DEFAULT = Rules()
