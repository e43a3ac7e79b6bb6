"""Sessions: each client finds its own state, in order, whatever HTTP worker and replica; what is lost is told."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.e2e.client import Answer, Client, once
from tests.e2e.gate import Gate
from tests.e2e.server import Server, eventually, model_folder, serving
from tests.e2e.store import add_model, ask, call, get, names

ID = "X-Amzn-SageMaker-Session-Id"
NEW = {"requestType": "NEW_SESSION"}
CLOSE = {"requestType": "CLOSE"}
VALUE = re.compile(r"([a-zA-Z0-9](?:-*[a-zA-Z0-9])*); Expires=(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)")


@pytest.fixture(scope="module")
def memo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = model_folder(tmp_path_factory.mktemp("memo"), "memo:Memo")
    with serving(folder, http_workers=2, replicas=2, session_max_bytes=100_000) as server:
        yield server


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With one HTTP worker, so that requests come to the replica as they came to the server."""
    folder = model_folder(tmp_path_factory.mktemp("alone"), "memo:Memo")
    with serving(folder, http_workers=1) as server:
        yield server


async def say(port: int, body: object, session: str | None = None) -> Answer:
    return await once(port, body, **({ID: session} if session is not None else {}))


def opened(answer: Answer) -> str:
    assert answer.status == 200, answer
    value = answer.headers["x-amzn-sagemaker-session-id"]
    assert answer.headers["x-amzn-sagemaker-new-session-id"] == value
    match = VALUE.fullmatch(value)
    assert match is not None, value
    return match[1]


def new_session(server: Server) -> str:
    return opened(asyncio.run(say(server.port, NEW, "NEW_SESSION")))


@pytest.mark.parametrize("header", ["NEW_SESSION", None])
def test_a_session_is_opened_by_header_or_body_and_announced_under_both_names(memo: Server, header: str | None) -> None:
    answer = asyncio.run(say(memo.port, NEW, header))
    id = opened(answer)
    assert len(id) <= 256
    expires = datetime.fromisoformat(answer.json()["expires"])
    assert timedelta(seconds=1190) < expires - datetime.now(UTC) <= timedelta(seconds=1200)
    assert answer.json()["session_id"] == id


def test_the_header_alone_opens_a_session_around_a_call_of_the_model(memo: Server) -> None:
    first = asyncio.run(say(memo.port, {"say": 1}, "NEW_SESSION"))
    id = opened(first)
    assert first.json()["said"] == [1]
    second = asyncio.run(say(memo.port, {"say": 2}, id))
    assert second.json()["said"] == [1, 2]
    assert not [name for name in second.headers if "session" in name], "only the answer that opens it announces it"


def test_without_a_session_nothing_is_remembered(memo: Server) -> None:
    assert asyncio.run(say(memo.port, {"say": 1})).json()["said"] is None


def test_a_closed_session_is_gone(memo: Server) -> None:
    id = new_session(memo)
    answer = asyncio.run(say(memo.port, CLOSE, id))
    assert (answer.status, answer.headers["x-amzn-sagemaker-closed-session-id"]) == (200, id)
    for body in ({"say": 1}, CLOSE):
        again = asyncio.run(say(memo.port, body, id))
        assert (again.status, again.code) == (400, "session_closed")


def test_the_handler_may_close_a_session_with_its_answer(memo: Server) -> None:
    id = new_session(memo)
    answer = asyncio.run(say(memo.port, {"say": 1, "do": "bye"}, id))
    assert (answer.json()["said"], answer.headers["x-amzn-sagemaker-closed-session-id"]) == ([1], id)
    assert asyncio.run(say(memo.port, {"say": 2}, id)).code == "session_closed"


@pytest.mark.parametrize("id", ["unknown", "0" * 32 + "-00000000-0-1", "a-b-c"])
def test_an_id_that_is_not_ours_is_a_400(memo: Server, id: str) -> None:
    answer = asyncio.run(say(memo.port, {"say": 1}, id))
    assert (answer.status, answer.code) == (400, "session_not_found")


def test_an_id_like_ours_that_nobody_was_given_is_a_400(memo: Server) -> None:
    id = new_session(memo)
    answer = asyncio.run(say(memo.port, {"say": 1}, "0" * 32 + id[32:]))
    assert (answer.status, answer.code) == (400, "session_not_found")


def test_a_failed_call_leaves_the_session_as_it_is(memo: Server) -> None:
    id = new_session(memo)
    assert asyncio.run(say(memo.port, {"say": 1, "do": "fail"}, id)).status == 500
    assert asyncio.run(say(memo.port, {"say": 2}, id)).json()["said"] == [2]


def test_a_state_that_grows_too_large_ends_its_session_with_507(memo: Server) -> None:
    id = new_session(memo)
    answer = asyncio.run(say(memo.port, {"say": 1, "bytes": 200_000}, id))
    assert (answer.status, answer.code) == (507, "session_too_large")
    assert asyncio.run(say(memo.port, {"say": 2}, id)).code == "session_closed"


async def accepted(server: Server, count: int) -> None:
    """So many requests are under way, each handed to its replica where there is one HTTP worker, in their order."""
    await asyncio.to_thread(eventually, lambda: server.metric("requests_in_flight") == count)


def test_calls_of_one_session_come_in_order_and_a_client_that_leaves_holds_up_nobody(
    alone: Server, tmp_path: Path
) -> None:
    gate = Gate(tmp_path / "gate")

    async def run(id: str) -> None:
        waiting = [asyncio.create_task(say(alone.port, {"say": 0, "gate": gate.path}, id))]
        await asyncio.to_thread(gate.wait_reached)
        async with Client(alone.port) as gone:
            leaving = asyncio.create_task(gone.invoke({"say": "gone"}, **{ID: id}))
            await accepted(alone, 2)
        await accepted(alone, 1)
        for n in range(1, 6):
            waiting.append(asyncio.create_task(say(alone.port, {"say": n}, id)))
            await accepted(alone, n + 1)
        gate.open()
        assert [(await one).json()["said"] for one in waiting] == [list(range(n + 1)) for n in range(6)]
        await asyncio.wait([leaving])

    asyncio.run(run(new_session(alone)))


def test_calls_behind_a_close_are_told_so(alone: Server, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")

    async def run(id: str) -> None:
        slow = asyncio.create_task(say(alone.port, {"say": 0, "gate": gate.path}, id))
        await asyncio.to_thread(gate.wait_reached)
        closing = asyncio.create_task(say(alone.port, CLOSE, id))
        await accepted(alone, 2)
        late = asyncio.create_task(say(alone.port, {"say": 1}, id))
        await accepted(alone, 3)
        gate.open()
        assert (await slow).status == 200
        assert (await closing).status == 200
        assert (await late).code == "session_closed"

    asyncio.run(run(new_session(alone)))


def test_sessions_expire_by_time_and_the_handler_hears_of_it(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "memo:Memo", f'[options]\nlog = "{tmp_path / "log"}"\n')
    with serving(folder, session_ttl=1) as server:
        id = new_session(server)
        asyncio.run(say(server.port, {"say": 1}, id))
        eventually(lambda: f"close {id} [1]" in (tmp_path / "log").read_text())
        answer = asyncio.run(say(server.port, {"say": 2}, id))
        assert (answer.status, answer.code) == (400, "session_expired")


def test_no_more_sessions_than_allowed(tmp_path: Path) -> None:
    with serving(model_folder(tmp_path, "memo:Memo"), session_limit=2) as server:
        first, _ = new_session(server), new_session(server)
        answer = asyncio.run(say(server.port, NEW))
        assert (answer.status, answer.code) == (503, "session_limit")
        asyncio.run(say(server.port, CLOSE, first))
        new_session(server)


def test_sessions_can_be_turned_off(tmp_path: Path) -> None:
    with serving(model_folder(tmp_path, "memo:Memo"), sessions="false") as server:
        for header in ("NEW_SESSION", "some-id"):
            answer = asyncio.run(say(server.port, {"say": 1}, header))
            assert (answer.status, answer.code) == (400, "sessions_disabled")
        assert asyncio.run(say(server.port, {"say": 1})).status == 200


def test_a_killed_replica_loses_its_own_sessions_and_each_is_told(tmp_path: Path) -> None:
    with serving(model_folder(tmp_path, "memo:Memo"), replicas=2) as server:
        server.wait_replicas(2)
        ids = [new_session(server) for _ in range(12)]
        owner = {id: asyncio.run(say(server.port, {"say": 0}, id)).json()["pid"] for id in ids}
        victim = owner[ids[0]]
        assert len(set(owner.values())) == 2
        eventually(lambda: server.metric("sessions_open") == 12)
        os.kill(victim, signal.SIGKILL)
        for id in ids:
            answer = asyncio.run(say(server.port, {"say": 1}, id))
            if owner[id] == victim:
                assert (answer.status, answer.code) == (400, "session_lost")
            else:
                assert answer.json()["said"] == [0, 1]
        lost = list(owner.values()).count(victim)
        eventually(lambda: server.metric("sessions_lost_total") == lost)
        eventually(lambda: server.metric("sessions_open") == 12 - lost)
        assert asyncio.run(say(server.port, {"do": "crash"}, ids[-1])).code == "session_lost", "and is not repeated"


@pytest.mark.slow
def test_a_model_with_sessions_is_not_evicted_unless_that_is_wanted(tmp_path: Path) -> None:
    for name in ("a", "b"):
        folder = add_model(tmp_path, name, handler="memo:Memo")
        (folder / "serving.toml").write_text('handler = "memo:Memo"\n')
    for evict in ("false", "true"):
        with serving(tmp_path, model_store=tmp_path, max_models=1, request_timeout=4, session_evict=evict) as server:
            headers = {"X-Amzn-SageMaker-Target-Model": "a"}
            reply = call(server, "POST", "/invocations", NEW, **headers)
            id = reply.json()["session_id"]
            eventually(lambda server=server: get(server, "a").json()["idleSeconds"] > 1.2)
            if evict == "false":
                assert ask(server, "b").status == 507
                assert call(server, "POST", "/invocations", CLOSE, **headers, **{ID: id}).status == 200
                assert ask(server, "b").status == 200
            else:
                assert ask(server, "b").status == 200
                reply = call(server, "POST", "/invocations", {"say": 1}, **headers, **{ID: id})
                assert (reply.status, reply.code) == (400, "session_lost")
            assert names(server) == ["b"]


def test_500_sessions_over_2_http_workers_and_3_replicas_each_see_their_own_state_in_order(tmp_path: Path) -> None:
    """20 calls each in random order of arrival, one replica killed in the middle."""
    sessions, calls = 500, 20

    async def run(server: Server) -> None:
        clients = [Client(server.port) for _ in range(40)]
        try:
            await converse(server, clients)
        finally:
            for client in clients:
                client.close()

    async def converse(server: Server, clients: list[Client]) -> None:
        free: asyncio.Queue[Client] = asyncio.Queue()
        for client in clients:
            free.put_nowait(client)

        async def send(body: object, **headers: str) -> Answer:
            client = await free.get()
            try:
                return await client.invoke(body, **headers)
            finally:
                free.put_nowait(client)

        opening = (send(NEW, **{ID: "NEW_SESSION"}) for _ in range(sessions))
        ids = [opened(one) for one in await asyncio.gather(*opening)]
        owner = {}
        for id, answer in zip(ids, await asyncio.gather(*(send({"say": 0}, **{ID: id}) for id in ids)), strict=True):
            owner[id] = answer.json()["pid"]
        assert len(set(owner.values())) == 3
        victim = owner[ids[0]]
        lost: set[str] = set()
        ended: set[str] = set()  # had all their calls before the replica was killed
        done = 0
        in_the_middle = asyncio.Event()

        async def talk(id: str, rng: random.Random) -> None:
            nonlocal done
            for n in range(1, calls):
                await asyncio.sleep(rng.random() * 0.05)
                answer = await send({"say": n}, **{ID: id})
                done += 1
                if done == sessions * calls // 3:
                    in_the_middle.set()
                if answer.status != 200:
                    assert answer.code == "session_lost", answer
                    lost.add(id)
                    return
                assert answer.json()["said"] == list(range(n + 1))
                assert answer.json()["pid"] == owner[id]
            ended.add(id)

        async def kill() -> None:
            await in_the_middle.wait()
            os.kill(victim, signal.SIGKILL)

        rng = random.Random(3)
        await asyncio.gather(kill(), *(talk(id, random.Random(rng.random())) for id in ids))
        of_victim = {id for id in ids if owner[id] == victim}
        assert lost == of_victim - ended
        assert len(lost) > len(of_victim) / 2

    folder = model_folder(tmp_path, "memo:Memo")
    with serving(folder, http_workers=2, replicas=3) as server:
        server.wait_replicas(3)
        asyncio.run(run(server))


def test_unloading_lets_the_calls_of_a_session_that_wait_for_each_other_finish(tmp_path: Path) -> None:
    store, gate = tmp_path / "store", Gate(tmp_path / "gate")
    (add_model(store, "a", handler="memo:Memo") / "serving.toml").write_text('handler = "memo:Memo"')
    target = {"X-Amzn-SageMaker-Target-Model": "a"}

    async def run(server: Server, id: str) -> None:
        headers = target | {ID: id}
        calls = [asyncio.create_task(once(server.port, {"say": 0, "gate": gate.path}, **headers))]
        await asyncio.to_thread(gate.wait_reached)
        calls += [asyncio.create_task(once(server.port, {"say": n}, **headers)) for n in (1, 2, 3)]
        await accepted(server, 4)
        # Its answer comes from the replica, which has read what came before it.
        assert (await once(server.port, {"say": 4}, **target, **{ID: "0" * 32 + id[32:]})).code == "session_not_found"
        unloading = asyncio.create_task(asyncio.to_thread(call, server, "DELETE", "/models/a"))
        await asyncio.to_thread(eventually, lambda: get(server, "a").status == 404)
        gate.open()
        assert [(await one).status for one in calls] == [200] * 4
        assert (await unloading).status == 200

    with serving(store, model_store=store, http_workers=1) as server:
        reply = call(server, "POST", "/invocations", NEW, **target, **{ID: "NEW_SESSION"})
        asyncio.run(run(server, reply.json()["session_id"]))
