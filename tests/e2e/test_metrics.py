"""What ``GET /metrics`` says after a mixed load: every request has one outcome, whatever died meanwhile."""

from __future__ import annotations

import json
import os
import random
import signal
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.models import add_model
from tests.e2e.server import Server, eventually, serving
from tests.e2e.test_target_model import ask

Labels = tuple[tuple[str, str], ...]


def scrape(server: Server, accept: str = "") -> tuple[str, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}/metrics", headers={"accept": accept})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read().decode(), answer.headers["content-type"]


def samples(server: Server) -> dict[tuple[str, Labels], float]:
    families = text_string_to_metric_families(scrape(server)[0])
    return {(one.name, tuple(sorted(one.labels.items()))): one.value for family in families for one in family.samples}


def outcomes(server: Server) -> Counter[tuple[str, str, str]]:
    found: Counter[tuple[str, str, str]] = Counter()
    for (name, labels), value in samples(server).items():
        if name == "serving_requests_total" and value:
            named = dict(labels)
            found[named["model"], named["status"], named["code"]] = int(value)
    return found
