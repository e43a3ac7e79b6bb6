"""Bodies of many records for handlers that know nothing of them: each is decoded and answered by itself, in order."""

from __future__ import annotations

import io
import itertools
import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from serving import BadRequest, BatchPolicy, Handler, Request, codecs
from serving.deadline import Deadline
from serving.errors import ModelError, ServingError
from serving.handler import EACH, ONE, ROWS
from serving.request import Response
from serving.testing import Client
from serving.worker.batching.batcher import Batcher, Item
from serving.worker.engine.engine import Engine
from serving.worker.engine.records import lines_of
from serving.worker.loading.loader import check_methods, paths_of
from serving.worker.rules import Rules
from tests.unit.test_engine import Stamps

LINES, CSV, JSON = "application/jsonlines", "text/csv", "application/json"


class Square8(Handler):
    """As people write them: four numbers, and nothing of rows. 13 is unlucky, 99 breaks the model."""

    policy = BatchPolicy(max_size=4)
    seen: tuple[Any, ...] = ()

    def decode(self, request: Request) -> torch.Tensor:
        value = torch.tensor(super().decode(request), dtype=torch.float32)
        if value.numel() != 4:
            raise BadRequest(f"expected 4 numbers, got {list(value.shape)}")
        return value.reshape(4)

    def predict(self, batch: torch.Tensor) -> torch.Tensor:
        self.seen += (len(batch),)
        if (batch == 13).any():
            raise BadRequest("unlucky")
        if (batch == 99).any():
            raise ValueError("broken")
        return batch.sum(1)

    def encode(self, output: torch.Tensor, request: Request) -> Any:
        return {"sum": output.item(), "record": request.record}


class Plain(Square8):
    def encode(self, output: torch.Tensor, request: Request) -> Any:
        return output


def ask(
    requests: list[Request], handler: Handler | None = None, bad_record: str | None = None
) -> list[Response | ServingError]:
    handler = handler or Square8()
    answers: dict[int, Any] = {}
    batcher = Batcher(handler.policy, 100)
    rules = Rules(bad_record=bad_record)
    engine = Engine(handler, batcher, Stamps(), lambda all: answers.update({i.id: o for i, o in all}), rules)
    for id, request in enumerate(requests):
        batcher.put(Item(id, request))
    batcher.close()
    engine.run()
    assert len(answers) == len(requests)
    return [answers[id] for id in range(len(requests))]


def one(
    body: bytes, kind: str = LINES, accept: str = "", handler: Handler | None = None, bad: str | None = None
) -> Any:
    [found] = ask([Request(body, kind, accept)], handler, bad)
    if isinstance(found, ServingError):
        return found.status, found.message
    return bytes(found.body), found.content_type


def rows(count: int) -> bytes:
    return b"".join(b"[%d, 0, 0, 1]\n" % number for number in range(count))


def test_every_record_is_answered_in_its_place_and_they_share_batches() -> None:
    handler = Square8()
    body, kind = one(rows(10), handler=handler)
    assert json.loads(body) == [{"sum": number + 1.0, "record": number + 1} for number in range(10)]
    assert kind == JSON
    assert handler.seen == (4, 4, 2)


@pytest.mark.parametrize("kind", [CSV, f"{CSV}; header=absent", f"{CSV}; charset=utf-16"])
def test_a_line_of_csv_is_a_record(kind: str) -> None:
    text = "1,2,3,4\r\n\r\n5,6,7,8"
    body = text.encode("utf-16" if "utf-16" in kind else "utf-8-sig")
    assert one(body, kind, CSV, Plain()) == (b"10.0\n26.0\n", CSV)
    assert one(b"a,b,c,d\n" + text.encode(), f"{CSV}; header=present", CSV, Plain()) == (b"10.0\n26.0\n", CSV)


@pytest.mark.parametrize(
    ("accept", "body", "kind"),
    [
        ("", b"[1.0,2.0]", JSON),
        ("*/*", b"[1.0,2.0]", JSON),
        (JSON, b"[1.0,2.0]", JSON),
        (LINES, b"1.0\n2.0\n", LINES),
        ("application/x-ndjson", b"1.0\n2.0\n", "application/x-ndjson"),
        (CSV, b"1.0\n2.0\n", CSV),
        ("application/json;q=0.1, text/csv", b"1.0\n2.0\n", CSV),
    ],
)
def test_the_answer_is_what_the_client_wants(accept: str, body: bytes, kind: str) -> None:
    assert one(rows(2), accept=accept, handler=Plain()) == (body, kind)


def test_an_answer_in_npy_is_one_array() -> None:
    body, kind = one(rows(5), accept="application/x-npy", handler=Plain())
    assert kind == "application/x-npy"
    np.testing.assert_array_equal(np.load(io.BytesIO(body)), np.arange(5) + 1)
    assert one(b"[1]\n", accept="image/png")[0] == 406


BAD = [
    (b"[1, 2, 3, 4]\nnope\n[1, 2, 3, 4]\n", 400, "record 2: "),
    (b"[1, 2, 3, 4]\n" * 5 + b"[1]\n", 400, r"record 6: expected 4 numbers, got \[1\]"),
    (b"[1, 2, 3, 4]\n[13, 2, 3, 4]\n", 400, "record 2: unlucky"),
    (b"[1, 2, 3, 4]\n[99, 2, 3, 4]\n", 500, "record 2: the model failed with ValueError"),
    (b"\n\n", 400, "no records"),
    (b"\xff\n", 400, "UTF-8|record 1"),
]


@pytest.mark.parametrize(("body", "status", "words"), BAD)
def test_the_record_that_failed_is_named(body: bytes, status: int, words: str) -> None:
    import re

    found = one(body)
    assert found[0] == status
    assert re.search(words, found[1]), found[1]
    assert re.search("record 2: column 2 .*'x'", one(b"1,2,3,4\n1,x,3,4\n", CSV)[1])


def test_a_stand_in_never_stands_for_a_good_record() -> None:
    body = b"[1, 2, 3, 4]\nnope\n[13, 0, 0, 0]\n[99, 0, 0, 0]\n[1]\n[0, 0, 0, 1]\n"
    assert one(body, accept=LINES, handler=Plain(), bad="E") == (b'10.0\n"E"\n"E"\n"E"\n"E"\n1.0\n', LINES)
    assert one(rows(3), accept=LINES, handler=Plain(), bad="E") == (b"1.0\n2.0\n3.0\n", LINES)
    assert one(b"nope\n", accept=LINES, handler=Plain(), bad="E") == (b'"E"\n', LINES)


class Deaf(Square8):
    """Whatever it is asked is wrong through no fault of the record."""

    def __init__(self, status: int) -> None:
        self.status = status

    def decode(self, request: Request) -> torch.Tensor:
        error = RuntimeError("no")
        error.status_code = self.status  # type: ignore[attr-defined]
        raise error


@pytest.mark.parametrize("status", [401, 403, 404, 406, 415, 429, 500, 502, 503, 504, 507])
@pytest.mark.parametrize("records", [EACH, ROWS, ONE])
def test_nor_does_it_for_what_is_no_fault_of_a_record(status: int, records: str) -> None:
    handler = Deaf(status)
    handler.records = records
    assert one(rows(3), accept=LINES, handler=handler, bad="E")[0] == status


@given(st.lists(st.sampled_from([b"[1, 2, 3, 4]", b"[2, 2, 2, 2]", b"x", b"[1]", b"[13, 0, 0, 0]", b"[99, 0, 0, 0]"])))
@settings(max_examples=50)
def test_a_body_is_answered_as_its_records_would_be_alone(lines: list[bytes]) -> None:
    wanted = []
    for line in lines:
        found = one(line, JSON, LINES, Plain(), None)
        wanted.append(found[0].strip() if isinstance(found[0], bytes) else None)
    found = one(b"\n".join(lines), accept=LINES, handler=Plain(), bad="E")
    if not lines:
        assert found[0] == 400
    elif any(line is not None for line in wanted) or b"[99, 0, 0, 0]" not in lines:
        assert found[0].splitlines() == [b'"E"' if one is None else one for one in wanted]
    else:
        assert found[0] == 500


def test_other_requests_go_on_between_the_batches_of_a_long_body() -> None:
    handler, order = Square8(), []
    batcher = Batcher(handler.policy, 100)
    engine = Engine(handler, batcher, Stamps(), lambda all: order.extend(i.id for i, _ in all), Rules())
    batcher.put(Item(0, Request(rows(100), LINES)))
    for id in (1, 2):
        batcher.put(Item(id, Request(b"[1, 2, 3, 4]", JSON)))
    assert batcher.size == 3
    engine.step()
    assert batcher.size == 1, "it waits until it is answered"
    batcher.close()
    engine.run()
    assert sorted(order[:2]) == [1, 2]
    assert order[2:] == [0]
    assert batcher.size == 0


def test_one_that_is_too_late_or_that_nobody_waits_for_ends() -> None:
    handler = Square8()
    handler.decode_threads = 1
    now = [0.0]
    answers: dict[int, Any] = {}
    batcher = Batcher(handler.policy, 100, lambda: now[0], threads=handler.decode_threads)
    engine = Engine(
        handler, batcher, Stamps(), lambda all: answers.update({i.id: o for i, o in all}), Rules(), clock=lambda: now[0]
    )
    late, left = Item(0, Request(rows(20), LINES, deadline=Deadline(5.0))), Item(1, Request(rows(20), LINES))
    for item in (late, left):
        batcher.put(item)
    engine.step()
    now[0], left.cancelled = 6.0, True
    batcher.close()
    engine.run()
    assert [(id, one.status) for id, one in answers.items()] == [(0, 504)]
    assert len(handler.seen) < 5
    assert batcher.size == 0


class Streams(Square8):
    def encode(self, output: Any, request: Request) -> Any:
        yield "piece"


class Maybe(Square8):
    def encode(self, output: Any, request: Request) -> Any:
        return iter(["piece"]) if False else (piece for piece in ["piece"])


def test_who_answers_in_pieces_is_given_one_record() -> None:
    assert paths_of(Streams()).single
    assert not paths_of(Square8()).single
    assert one(rows(2), handler=Maybe())[0] == 400


class Whole(Handler):
    records = ROWS

    def predict(self, batch: Any) -> Any:
        return batch * 2


def test_a_handler_for_rows_gets_the_whole_body() -> None:
    with Client(Whole) as client:
        assert bytes(client.invoke(b"1,2\n3,4\n", CSV, CSV).body) == b"2.0,4.0\n6.0,8.0\n"
    wrong = Whole()
    wrong.records = "all"
    with pytest.raises(ModelError, match="records"):
        check_methods(wrong)


@pytest.mark.parametrize("value", ['"a\nb"', {"a": [1, "\n"]}])
def test_json_on_many_lines_is_one_line_of_the_answer(value: Any) -> None:
    class Pretty(Square8):
        def encode(self, output: Any, request: Request) -> Any:
            return Response(json.dumps(value, indent=2).encode(), JSON)

    body, _ = one(rows(2), accept=LINES, handler=Pretty())
    assert [json.loads(line) for line in body.splitlines()] == [value, value]


def test_answers_that_are_none_of_many_are_an_error() -> None:
    class Image(Square8):
        def encode(self, output: Any, request: Request) -> Any:
            return Response(b"\x89PNG", "image/png")

    class Two(Square8):
        def encode(self, output: Any, request: Request) -> Any:
            return Response(b"1\n2\n", CSV)

    assert one(rows(2), handler=Image())[0] == 500
    assert one(rows(2), handler=Two())[0] == 500


def test_what_init_writes_answers_a_batch_transform() -> None:
    from serving.desk.init import HANDLER

    names: dict[str, Any] = {}
    exec(HANDLER, names)
    with Client(names["Model"]) as client:
        assert bytes(client.invoke(b"[1, 2]\n[3]\n", LINES, LINES).body) == b"[2.0,4.0]\n[6.0]\n"
        assert bytes(client.invoke(b"1,2\n3,4\n", CSV, CSV).body) == b"2.0,4.0\n6.0,8.0\n"


class Same(Handler):
    """What comes goes back; objects with a ``csv`` as CSV."""

    policy = BatchPolicy(max_size=2)

    def bucket(self, sample: Any) -> Any:
        return str(type(sample))

    def collate(self, samples: Any) -> Any:
        return samples

    def predict(self, batch: Any) -> Any:
        return list(batch)

    def encode(self, output: Any, request: Request) -> Any:
        return Response(output["csv"].encode(), CSV) if isinstance(output, dict) and "csv" in output else output


PARTS = ["[1]", '"x"', '{"a":2}', '"two\\nlines"', '""', '"é"', '{"csv":"1,2\\n"}', '"x"', "null"]
MIXED = [one for size in (2, 3) for one in itertools.permutations(PARTS[:7], size)] + [tuple(PARTS)]


@pytest.mark.parametrize("accept", ["", "*/*"])
def test_answers_of_many_kinds_are_a_line_of_json_each_where_no_type_is_asked_for(accept: str) -> None:
    handler = Same()
    for records in MIXED:
        body, kind = one("\n".join(records).encode(), LINES, accept, handler)
        values = [json.loads(record) for record in records]
        wanted = [one["csv"].strip() if isinstance(one, dict) and "csv" in one else one for one in values]
        if kind == JSON:  # all are
            assert json.loads(body) == wanted
        elif kind.startswith("text/"):  # all are, in a line each
            assert body.decode().split("\n") == [*wanted, ""]
        else:
            assert (kind, [json.loads(line) for line in body.decode().split("\n")[:-1]]) == (LINES, wanted)


def test_a_stand_in_among_answers_of_many_kinds_is_json_too() -> None:
    body, kind = one(b'"x"\n[nope\n[1]\n', LINES, "", Same(), "ERROR")
    assert (body, kind) == (b'"x"\n"ERROR"\n[1]\n', LINES)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_carriage_return_within_a_record_of_json_ends_none(end: str) -> None:
    body = f"[1,\r2]{end}\r{end}\r[3, 4]\r{end}[5,\r\r6]".encode()
    assert codecs.decode(body, LINES).tolist() == [[1, 2], [3, 4], [5, 6]]
    assert json.loads(one(body, LINES, JSON, Same())[0]) == [[1, 2], [3, 4], [5, 6]]
    assert one(body, LINES, LINES, Same())[0] == b"[1,2]\n[3,4]\n[5,6]\n"
    assert one(b"[1]\r[2]", LINES, "", Same())[0] == 400
    with pytest.raises(BadRequest, match="line 1 of the body is no JSON"):
        codecs.decode(b"[1]\r[2]", LINES)


def test_lines_of_an_answer_end_as_those_of_a_body_do() -> None:
    found = lines_of(Response(b"[1,\r2]\r\n\r\n[3]\n", LINES))
    assert [json.loads(line) for line in found] == [[1, 2], [3]]
    assert lines_of(Response(b"a\rb\n", "text/plain")) == [b"a", b"b"]
