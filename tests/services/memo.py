"""Remembers what each session has said: the answer is the session's own list so far, and the replica's pid."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from gates import wait_at

from serving import BatchPolicy, Handler, Request, Session


class Memo(Handler):
    policy = BatchPolicy(max_size=16)

    def load(self, model_dir: Path, device: str, log: str = "") -> None:
        self.log = log

    def note(self, word: str, session: Session) -> None:
        if self.log:
            with Path(self.log).open("a") as file:
                file.write(f"{word} {session.id} {session.state.get('said', [])}\n")

    def on_session_open(self, session: Session) -> None:
        session.state["said"] = []
        self.note("open", session)

    def on_session_close(self, session: Session) -> None:
        self.note("close", session)

    def decode(self, request: Request) -> tuple[dict[str, Any], Session | None]:
        return super().decode(request), request.session

    def bucket(self, sample: Any) -> str:
        return "one"

    def predict(self, batch: list[tuple[dict[str, Any], Session | None]]) -> list[dict[str, Any]]:
        sessions = [session.id for _, session in batch if session is not None]
        assert len(sessions) == len(set(sessions)), "two calls of a session in one batch"
        return [self.one(*sample) for sample in batch]

    def one(self, sample: dict[str, Any], session: Session | None) -> dict[str, Any]:
        time.sleep(sample.get("sleep", 0))
        if "gate" in sample:
            wait_at(sample["gate"])
        if session is None:
            return {"said": None, "pid": os.getpid()}
        if sample.get("do") == "fail":
            raise ValueError("not today")
        if sample.get("do") == "crash":
            os._exit(3)
        if sample.get("do") == "bye":
            session.close()
        session.state["ballast"] = bytearray(sample.get("bytes", 0))
        session.state["said"].append(sample.get("say"))
        return {"said": list(session.state["said"]), "pid": os.getpid()}
