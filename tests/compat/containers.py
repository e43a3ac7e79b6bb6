"""Ask a script as AWS's scikit-learn or XGBoost container would: their code, their web application, no server.

    python containers.py {sklearn | xgboost} SCRIPT < requests > answers

Requests are JSON, a list of [body in base64, content type, accept]; answers a list of [status, type, body in base64].
What starts their servers is a stub. It runs in a process of its own, since its modules have the names of this server's.
"""

from __future__ import annotations

import base64
import collections
import collections.abc
import importlib
import importlib.util
import json
import sys
import warnings
from types import ModuleType
from typing import Any

warnings.simplefilter("ignore")


class Stub(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **options: ""


def main(kind: str, script: str) -> None:
    package = f"sagemaker_{kind}_container"
    vars(collections)["Mapping"] = collections.abc.Mapping  # as it was called when they were written
    stubs = ("inotify_simple", "paramiko", "pkg_resources", f"{package}.serving_mms", f"{package}.algorithm_mode.serve")
    sys.modules.update({name: Stub(name) for name in stubs})
    serving = importlib.import_module(f"{package}.serving")
    worker = importlib.import_module("sagemaker_containers.beta.framework").worker
    spec = importlib.util.spec_from_file_location("user_module", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    transformer = serving._user_module_transformer(module)
    transformer.initialize()
    client = worker.Worker(transform_fn=transformer.transform, module_name="user_module").test_client()
    answers = []
    for body, content_type, accept in json.load(sys.stdin):
        headers = {"Accept": accept} if accept else {}
        given = base64.b64decode(body)
        answer = client.post("/invocations", data=given, content_type=content_type, headers=headers)
        answers.append([answer.status_code, answer.mimetype, base64.b64encode(answer.data).decode()])
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
