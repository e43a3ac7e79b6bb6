"""What ``GET /metrics`` says after a mixed load: every request has one outcome, whatever died meanwhile."""

from __future__ import annotations

import random
import shutil
import subprocess
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from serving.metrics import catalog
from tests.e2e.server import Server, eventually, model_folder, serving
from tests.e2e.store import add_model, ask, call

Labels = frozenset[tuple[str, str]]
MODELS = ("a", "b", "c")
DOINGS = ("echo", "echo", "echo", "raise", "teapot", "exit")
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def scrape(server: Server, accept: str = "") -> tuple[str, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}/metrics", headers={"accept": accept})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read().decode(), answer.headers["content-type"]


def samples(server: Server) -> dict[tuple[str, Labels], float]:
    families = parse_text(scrape(server)[0])
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def by(server: Server, name: str, *labels: str) -> Counter[tuple[str, ...]]:
    """The values of one name that are not zero, by these labels."""
    found: Counter[tuple[str, ...]] = Counter()
    for (known, pairs), value in samples(server).items():
        if known == name and value:
            named = dict(pairs)
            found[tuple(named[label] for label in labels)] += int(value)
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    store = tmp_path_factory.mktemp("store")
    for name in MODELS:
        (add_model(store, name, "faulty:Faulty") / "serving.toml").write_text('handler = "faulty:Faulty"')
    broken = add_model(store, "broken", "faulty:Faulty")
    (broken / "serving.toml").write_text('handler = "faulty:Missing"')
    with serving(store, model_store=store, http_workers=2) as server:
        yield server


def test_requests_sent_are_outcomes_counted_by_model_and_code_through_deaths(server: Server) -> None:
    """Some requests end their worker, beside others of its batch that are tried again."""
    rng = random.Random(5)
    plans = [(rng.choice(MODELS), rng.choice(DOINGS)) for _ in range(300)]
    plans += [("nobody", "echo")] * 7 + [("broken", "echo")] * 3

    def send(plan: tuple[str, str]) -> tuple[str, str, str]:
        model, do = plan
        reply = ask(server, model, {"do": do, "id": 1})
        code = "none" if reply.status == 200 else reply.code
        return ("unknown" if model == "nobody" else model), f"{reply.status // 100}xx", code

    with ThreadPoolExecutor(12) as pool:
        sent = Counter(pool.map(send, plans))
    assert by(server, "serving_requests_total", "model", "status", "code") == sent
    requests: Counter[tuple[str, ...]] = Counter()
    for (model, _, _), count in sent.items():
        requests[model,] += count
    for name in ("serving_request_seconds", "serving_request_bytes", "serving_response_bytes"):
        assert by(server, f"{name}_count", "model") == requests
    assert by(server, "serving_model_requests_in_flight", "model") == Counter()
    deaths = sum(count for (_, _, code), count in sent.items() if code == "worker_died")
    assert deaths > 10
    assert by(server, "serving_model_loads_total", "cause", "result")["restart", "ok"] > 0
    retries = by(server, "serving_request_retries_total")
    assert retries[()] >= deaths, "each was tried twice"


def test_what_a_model_has_counted_stays_when_it_is_unloaded(server: Server) -> None:
    assert ask(server, "a", {"id": 1}).status == 200
    before = samples(server)
    assert call(server, "DELETE", "/models/a").status == 200
    after = samples(server)
    lost = {
        key: value
        for key, value in before.items()
        if ("model", "a") in key[1] and key[0].endswith(("_total", "_count", "_bucket")) and after.get(key, 0) < value
    }
    assert not lost
    assert by(server, "serving_model_evictions_total", "model", "reason")["a", "unload"] == 1


@pytest.mark.parametrize(("accept", "parse"), [("", parse_text), (OPENMETRICS, parse_openmetrics)])
def test_all_that_is_there_is_in_the_catalog(server: Server, accept: str, parse: object) -> None:
    text, content_type = scrape(server, accept)
    assert content_type.startswith(accept.partition(";")[0] or "text/plain")
    names = {family.name for family in parse(text)}  # type: ignore[operator]
    assert names <= {one.name.removesuffix("_total") for one in catalog.ALL}
    assert {"serving_requests", "serving_predict_seconds", "serving_saturation", "serving_ready"} <= names


def test_promtool_finds_nothing_to_say(server: Server) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: apt install prometheus")
    checked = subprocess.run([promtool, "check", "metrics"], input=scrape(server)[0], capture_output=True, text=True)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_off_counts_nothing_and_shows_nothing(tmp_path: Path) -> None:
    with serving(model_folder(tmp_path, "faulty:Faulty"), metrics="off") as server:
        assert call(server, "POST", "/invocations", {"id": 1}).status == 200
        assert call(server, "GET", "/metrics").status == 404


def test_a_handlers_own_metrics_are_shown(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "counting:Counting")
    with serving(folder, replicas=2) as server:
        server.wait_replicas(2)
        for _ in range(20):
            assert call(server, "POST", "/invocations", {"label": "cat"}).status == 200
        assert call(server, "POST", "/invocations", {"label": "dog", "exit": True}).status == 500
        eventually(lambda: by(server, "predictions_total", "label") == {("cat",): 20, ("dog",): 2})
        assert by(server, "sizes_bytes_count") == {(): 22}
