"""The platform's side of a multi-model endpoint: what ``InvokeEndpoint`` with TargetModel makes of a container.

As SageMaker does: it unpacks the artifact on the first call, loads it under a name of its own making, invokes it,
unloads models that are not in use when the container says 507, and turns the container's errors into ModelError.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PASSED = ("Content-Type", "Accept", "X-Amzn-SageMaker-Custom-Attributes", "X-Amzn-SageMaker-Target-Model")


class Platform:
    """Serves ``POST /endpoints/{name}/invocations``; ``bucket`` holds the artifacts, ``volume`` what was unpacked."""

    def __init__(self, port: int, bucket: Path, volume: Path) -> None:
        self._port = port
        self._bucket = bucket
        self._volume = volume
        self._lock = threading.Lock()
        self.loaded: list[str] = []
        self.calls: list[tuple[str, str, int]] = []
        platform = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name: self.headers[name] for name in PASSED if name in self.headers}
                status, fields, data = platform.invoke(headers, body)
                self.send_response(status)
                for name, value in {**fields, "Content-Length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def call(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, str], bytes]:
        """One call of the container."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        self.calls.append((method, path, answer.status))
        return answer.status, dict(answer.headers), data

    def invoke(self, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        target = headers["X-Amzn-SageMaker-Target-Model"]
        name = hashlib.sha256(target.encode()).hexdigest()[:32]
        with self._lock:
            problem = self._ensure(name, target)
        if problem is not None:
            return model_error(*problem)
        status, fields, data = self.call("POST", f"/models/{name}/invoke", body, **headers)
        if status != 200:
            return model_error(status, data)
        return (
            200,
            {key: value for key, value in fields.items() if key.lower().startswith(("content-type", "x-"))},
            data,
        )

    def _ensure(self, name: str, target: str) -> tuple[int, bytes] | None:
        if name in self.loaded:
            self.loaded.remove(name)
            self.loaded.append(name)
            return None
        folder = self._volume / name / "model"
        if not folder.exists():
            folder.mkdir(parents=True)
            with tarfile.open(self._bucket / target) as tar:
                tar.extractall(folder, filter="data")
        while True:
            request = json.dumps({"model_name": name, "url": str(folder)}).encode()
            status, _, data = self.call("POST", "/models", request, **{"Content-Type": "application/json"})
            if status in (200, 409):
                self.loaded.append(name)
                return None
            if status != 507 or not self.loaded:
                return status, data
            self.call("DELETE", f"/models/{self.loaded.pop(0)}")


def model_error(status: int, data: bytes) -> tuple[int, dict[str, str], bytes]:
    error = {"OriginalStatusCode": status, "OriginalMessage": data.decode(), "Message": f"Received error ({status})"}
    return 424, {"x-amzn-ErrorType": "ModelError", "Content-Type": "application/json"}, json.dumps(error).encode()
