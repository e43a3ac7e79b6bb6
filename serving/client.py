"""The command line's requests to a running server: ModelsClient for ``serving models``, and ``ping``."""

from __future__ import annotations

import http.client
import ipaddress
import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

import click

TIMEOUT = 400.0  # seconds; a load may take 350
PING_TIMEOUT = 2.0  # seconds; the platform waits as long


class ModelsClient:
    """A client of the multi-model API. Every method raises click.ClickException with the server's message where a call
    fails.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        # The environment's proxy is for other machines: at it, 127.0.0.1 would be the proxy's own.
        handlers = [urllib.request.ProxyHandler({})] if is_here(self._url) else []
        self._opener = urllib.request.build_opener(*handlers)

    def list(self) -> list[dict[str, Any]]:
        """Return all loaded models, from all pages."""
        found: list[dict[str, Any]] = []
        token = ""
        while True:
            page = self._call("GET", f"/models?next_page_token={urllib.parse.quote(token)}")
            found += page["models"]
            token = page.get("nextPageToken", "")
            if not token:
                return found

    def load(self, name: str, path: str) -> None:
        self._call("POST", "/models", {"model_name": name, **({"url": path} if path else {})})

    def unload(self, name: str) -> None:
        self._call("DELETE", f"/models/{urllib.parse.quote(name)}")

    def pin(self, name: str, pinned: bool) -> None:
        self._call("PATCH", f"/models/{urllib.parse.quote(name)}", {"pin": pinned})

    def _call(self, method: str, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        try:
            request = urllib.request.Request(
                self._url + path, data, {"content-type": "application/json"}, method=method
            )
            with self._opener.open(request, timeout=TIMEOUT) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                raise click.ClickException(explain(error.code, error.read())) from error
        except (OSError, ValueError) as exc:
            raise click.ClickException(f"{self._url}: {exc}") from exc


def is_here(url: str) -> bool:
    """Return whether a URL names this machine by a loopback address."""
    host = urllib.parse.urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def explain(status: int, body: bytes) -> str:
    try:
        error = json.loads(body)["error"]
        return f"{status} {error['code']}: {error['message']}"
    except (ValueError, KeyError, TypeError):
        return f"{status}: the answer is none of a server of ours with a model store"


def ping(host: str, port: int) -> tuple[bool, str]:
    """Return whether a request sent now could be served, and the server's own description."""
    # Not urllib, which would use the environment's proxy for an address of this machine.
    connection = http.client.HTTPConnection(host, port, timeout=PING_TIMEOUT)
    try:
        connection.request("GET", "/ping")
        response = connection.getresponse()
        return response.status == 200, response.read().decode("utf-8", "replace").strip()
    except (OSError, http.client.HTTPException) as exc:
        return False, f"{host}:{port}: {exc}"
    finally:
        connection.close()
