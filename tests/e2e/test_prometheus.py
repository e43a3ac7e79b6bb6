"""A real Prometheus scrapes the server, and the queries of the documentation return data there."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.metrics import catalog
from tests.e2e.server import Server, eventually, model_folder, serving
from tests.e2e.store import call

DOCS = Path(__file__).parent.parent.parent / "docs"
PROMETHEUS = shutil.which("prometheus")
NAME = re.compile(r"serving_[a-z_]+")
NEVER_HERE = ("serving_worker_exits_total", 'cause="store"')  # a server of one model, of which no process dies

pytestmark = pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not installed: apt install prometheus")


def queries() -> list[str]:
    """The queries of the page, those that are whole."""
    rows = [line for line in (DOCS / "metrics.md").read_text().splitlines() if line.startswith("| ") and "? |" in line]
    return [query for row in rows for query in re.findall(r"`([^`]+)`", row) if "(" in query]


class Prometheus:
    def __init__(self, folder: Path, target: int) -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = sock.getsockname()[1]
        config = folder / "prometheus.yml"
        job = {"job_name": "serving", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}
        config.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}))
        assert PROMETHEUS is not None
        self.process = subprocess.Popen(
            [
                PROMETHEUS,
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                "--log.level=error",
            ]
        )

    def query(self, text: str) -> list[dict[str, Any]]:
        url = f"http://127.0.0.1:{self.port}/api/v1/query?{urllib.parse.urlencode({'query': text})}"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
                return result
        except OSError:
            return []

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(model_folder(tmp_path_factory.mktemp("model"), "faulty:Faulty"), http_workers=2) as server:
        yield server


@pytest.fixture(scope="module")
def prometheus(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    made = Prometheus(tmp_path_factory.mktemp("prometheus"), server.port)
    try:
        yield made
    finally:
        made.close()


def test_queries_of_the_page_return_data(server: Server, prometheus: Prometheus) -> None:
    def has_all() -> bool:
        assert call(server, "POST", "/invocations", {"id": 1}).status == 200
        return all(prometheus.query(query) for query in queries() if not any(name in query for name in NEVER_HERE))

    eventually(has_all, 60)
    assert len(queries()) > 4
    [up] = prometheus.query("up")
    assert up["value"][1] == "1"


@pytest.mark.parametrize("page", ["metrics.md", "operate.md"])
def test_every_series_that_a_page_names_is_there(page: str) -> None:
    known = {one.name for one in catalog.ALL}
    known |= {f"{one.name}_{part}" for one in catalog.ALL if one.bounds for part in ("bucket", "sum", "count")}
    assert set(NAME.findall((DOCS / page).read_text())) <= known
