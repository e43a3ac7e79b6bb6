"""Rules: the settings that apply to calls and their answers."""

from __future__ import annotations

from dataclasses import dataclass

from serving import codecs
from serving.config.config import Config


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings of one worker. Sizes are in bytes with 0 for no limit, times in seconds.

    ``stream_idle`` is the idle time-out of Streams. ``bad_record`` replaces a bad record in a body of many; None fails
    the whole body. ``timeout`` is the model's: the most that one call of user code may take.
    """

    default_accept: str = codecs.JSON
    session_max_bytes: int = 0
    stream_idle: float = 60.0
    bad_record: str | None = None
    timeout: float = 60.0

    @classmethod
    def of(cls, config: Config, timeout: float) -> Rules:
        """Return the rules of ``config`` for a model with this ``timeout``, in seconds."""
        return cls(
            config.default_accept, config.session_max_bytes, config.stream_idle_timeout, config.bad_record, timeout
        )


DEFAULT = Rules()
