"""What the HTTP protocol takes for granted of uvicorn's, which is not its public interface: a release that changes one
of these fails here, not in front of clients."""

from __future__ import annotations

import asyncio
import inspect
import re
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from uvicorn import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

ROOT = Path(__file__).parents[2]
VERBS = ("connection_made", "connection_lost", "eof_received", "data_received", "shutdown", "pause_writing")
OURS = (
    "on_response_complete",
    "timeout_keep_alive_handler",
    "resume_writing",
    "_start_asgi_task",
    "_should_upgrade_to_ws",
)


async def nothing(scope: Any, receive: Any, send: Any) -> None: ...


def protocol() -> HttpToolsProtocol:
    config = Config(nothing, http=HttpToolsProtocol, lifespan="off")
    return HttpToolsProtocol(config, ServerState(), {}, asyncio.new_event_loop())


@pytest.mark.parametrize("name", [*VERBS, *OURS])
def test_the_protocol_has_the_methods_that_we_extend_or_call(name: str) -> None:
    assert inspect.isfunction(getattr(HttpToolsProtocol, name))


def test_the_protocol_has_the_attributes_that_we_read_and_set() -> None:
    one = protocol()
    names = "app asgi_version root_path app_state access_logger access_log logger cycle server_state connections tasks"
    others = ("server", "client", "scheme", "flow", "timeout_keep_alive", "ws_protocol_class", "parser", "config")
    for name in (*names.split(), *others):
        assert hasattr(one, name), name
    assert one.cycle is None
    assert one.server_state.total_requests == 0
    assert isinstance(one.server_state.default_headers, list)
    one.loop.close()


def test_a_cycle_is_made_from_what_we_give_and_holds_what_we_set() -> None:
    given = set(inspect.signature(RequestResponseCycle.__init__).parameters) - {"self"}
    assert given == {
        "scope",
        "transport",
        "flow",
        "logger",
        "access_logger",
        "access_log",
        "default_headers",
        "message_event",
        "expect_100_continue",
        "keep_alive",
        "on_response",
    }
    cycle = cycle_of(given)
    ours = ("body", "more_body", "chunked_encoding", "expected_content_length", "response_complete")
    for name in (*ours, "response_started", "disconnected", "keep_alive", "message_event"):
        assert hasattr(cycle, name), name


def cycle_of(names: set[str]) -> RequestResponseCycle:
    anything: dict[str, Any] = dict.fromkeys(names)
    return RequestResponseCycle(**anything)


def test_the_protocol_takes_a_connection_without_a_cycle_for_an_idle_one() -> None:
    """Ours never has one: it keeps the request that is under way in a place of its own."""
    one = protocol()
    one.transport = asyncio.Transport()
    one.connection_lost(OSError())
    assert one.cycle is None
    one.loop.close()


def test_flow_control_says_whether_writing_is_paused() -> None:
    flow = FlowControl(None)  # type: ignore[arg-type]
    assert not flow.write_paused
    assert not flow.read_paused
    assert inspect.isfunction(FlowControl.pause_reading)
    assert inspect.isfunction(FlowControl.resume_reading)
    assert HIGH_WATER_LIMIT > 0
    assert STATUS_LINE[200] == b"HTTP/1.1 200 OK\r\n"


def test_the_range_of_versions_is_bounded_and_this_one_is_in_it() -> None:
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    [line] = [one for one in needs if re.match("uvicorn[<>=]", one)]
    low, high = re.findall(r"(\d+)\.(\d+)", line)
    here = tuple(map(int, version("uvicorn").split(".")[:2]))
    assert sorted([tuple(map(int, low)), here, tuple(map(int, high))])[1] == here
