"""Models of other servers, found by their files and served by the whole server."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.server import serving
from tests.e2e.store import call

DJL = """
from djl_python import Input, Output

def handle(inputs: Input) -> Output:
    if inputs.is_empty():
        return None
    return Output().add_as_json({"data": inputs.get_as_json(), "size": inputs.get_property("size")})
"""


def test_djl(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(DJL)
    (tmp_path / "serving.properties").write_text("engine=Python\noption.size=small\n")
    with serving(tmp_path) as server:
        reply = call(server, "POST", "/invocations", {"x": 1})
        assert (reply.status, reply.json()["data"]) == (200, {"x": 1})
