"""Rerun: the process in which ``serving replay`` runs a batch again, since it may end as the first one did.

It writes two lines of JSON to a pipe: that the model is loaded, and what has become of each request.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
from pathlib import Path
from typing import Any

from serving.config import config as configuration
from serving.errors import ServingError
from serving.model.folder import read_model
from serving.postmortem.recording import read
from serving.request import Response
from serving.system import log
from serving.testing import Client
from serving.worker.engine import failures


def main() -> None:
    """Run ``python -m serving.desk.rerun RECORDING MEMBERS PIPE [FOLDER]``, members as ``0,2``."""
    path, members, pipe, *folders = sys.argv[1:]
    faulthandler.enable(all_threads=True)
    log.setup("replay", "info", "text")
    failures.show_details(True)
    recording = read(Path(path))
    config = configuration.load({})
    model = recording.model
    if folders:
        model = read_model(Path(folders[0]), model.name, config, configuration.cores())
    with os.fdopen(int(pipe), "w", buffering=1) as tell, Client.of_model(model, config) as client:
        print("loaded", file=tell)
        requests = recording.only([int(member) for member in members.split(",")])
        print(json.dumps([outcome_of(one) for one in client.batch(requests)]), file=tell)


def outcome_of(outcome: Response | ServingError) -> dict[str, Any]:
    code = outcome.code if isinstance(outcome, ServingError) else ""
    text = outcome.message if isinstance(outcome, ServingError) else f"{len(outcome.body)} bytes"
    return {"status": outcome.status, "code": code, "text": text}


if __name__ == "__main__":
    main()
