"""TorchServe handlers in this process: entry points, what they are given, what their clients get, each error.

The archives were written here as TorchServe's documentation shows them; ``tests/compat`` has TorchServe itself.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from serving import Request
from serving.adapters.torchserve.handler import TorchServeHandler
from serving.errors import ModelError, OutOfMemory, ServingError
from serving.handler import BatchPolicy
from serving.request import Response
from serving.testing import Client
from tests.mar import write_archive

Make = Callable[..., Client]


@pytest.fixture
def make(tmp_path: Path) -> Make:

    def client(
        script: str | None = None, max_size: int = 1, options: dict[str, Any] | None = None, **told: Any
    ) -> Client:
        handler = TorchServeHandler()
        handler.policy = BatchPolicy(max_size=max_size)
        return Client(handler, write_archive(tmp_path, script, **told), **(options or {}))

    return client


def answers(client: Client, *requests: Request) -> list[Response | ServingError]:
    return client.batch(requests)


def text(body: str, **options: Any) -> Request:
    return Request(body.encode(), "text/plain", **options)


# Entry points.

FUNCTION = """
    started = []
    def handle(data, context):
        if data is None:
            started.append(context.model_name)
            return None
        return [{"started": started, "n": len(data)}]
"""
CLASS = """
    from ts.torch_handler.base_handler import BaseHandler
    class Helper:
        pass
    class Mine(BaseHandler):
        def initialize(self, context):
            self.started = [context.model_name]
        def handle(self, data, context):
            return [{"started": self.started, "n": len(data)}]
"""
NAMED = FUNCTION.replace("def handle", "def run")


@pytest.mark.parametrize(("script", "handler"), [(FUNCTION, "handler"), (CLASS, "handler.py"), (NAMED, "handler:run")])
def test_entry_points_are_started_and_called(make: Make, script: str, handler: str) -> None:
    client = make(script, model={"handler": handler})
    assert json.loads(client.invoke(b"{}").body) == {"started": ["sample"], "n": 1}


@pytest.mark.parametrize(
    ("script", "handler", "told"),
    [
        ("x = 1", "handler", "its classes: none"),
        ("class A:\n    pass", "handler", "its classes: A"),
        (CLASS + CLASS.replace("Mine", "Other"), "handler", "Mine, Helper, Other|Helper, Mine, Other"),
        (FUNCTION, "handler:none", "has no function none"),
        ("import absent", "handler", "importing .* failed: ModuleNotFoundError: No module named 'absent'"),
        ("raise SystemExit(3)", "handler", "importing .* failed: SystemExit: 3"),
        ("import ts.handler_utils.distributed.pt_pippy", "handler", "No module named 'ts.handler_utils.distributed'"),
        ("from ts.handler_utils import hf_batch_streamer", "handler", "cannot import name 'hf_batch_streamer'"),
    ],
)
def test_a_module_without_an_entry_point_is_an_error(make: Make, script: str, handler: str, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        make(script, model={"handler": handler})


# What they are given.

SHOW = """
    def show(value):
        return [type(value).__name__, bytes(value).decode() if isinstance(value, bytearray) else value]
    def handle(data, context):
        return data and [{name: show(value) for name, value in row.items()} for row in data]
"""
FORM = (
    b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--x\r\nContent-Disposition: form-data; name="f"; '
    b'filename="f.json"\r\nContent-Type: application/json\r\n\r\n{"q": 1}\r\n--x\r\nContent-Disposition: form-data; '
    b'name="g"; filename="g"\r\n\r\n\r\n1\r\n\r\n--x--\r\n'
)


@pytest.mark.parametrize(
    ("body", "kind", "seen"),
    [
        (b'{"a": 1}', "application/json", {"body": ["dict", {"a": 1}]}),
        (b'{"a": 1}', "application/json; charset=utf-8", {"body": ["dict", {"a": 1}]}),
        (b"{no", "application/json", {"body": ["bytearray", "{no"]}),
        (b"1,2", "text/csv", {"body": ["str", "1,2"]}),
        (b"\x01", "image/png", {"body": ["bytearray", "\x01"]}),
        (b"x", "", {"body": ["bytearray", "x"]}),
        (b"", "", {"body": ["bytearray", ""]}),
        (b"a=1&b=%41+x&a=2&c=", "application/x-www-form-urlencoded", {
            "a": ["bytearray", "2"], "b": ["bytearray", "A x"], "c": ["bytearray", ""]
        }),
        (FORM, "multipart/form-data; boundary=x", {
            "a": ["bytearray", "1"], "f": ["dict", {"q": 1}], "g": ["bytearray", "\r\n1\r\n"]
        }),
    ],
)  # fmt: skip
def test_a_request_is_a_dict_by_its_content_type(make: Make, body: bytes, kind: str, seen: dict[str, Any]) -> None:
    assert json.loads(make(SHOW).invoke(body, kind).body) == seen


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"x", "multipart/form-data"),
        (b"x", "multipart/form-data; boundary=x"),
        (b"--x\r\nA: b\r\n\r\n1\r\n--x--", "multipart/form-data; boundary=x"),
        (FORM[:-6], "multipart/form-data; boundary=x"),
    ],
)
def test_a_form_that_is_none_is_400(make: Make, body: bytes, kind: str) -> None:
    with pytest.raises(ServingError) as caught:
        make(SHOW).invoke(body, kind)
    assert caught.value.status == 400


def test_decoding_can_be_left_to_the_handler(make: Make) -> None:
    client = make(SHOW, options={"decode_input_request": False})
    assert json.loads(client.invoke(b"[1]", "application/json").body) == {"body": ["bytearray", "[1]"]}


def test_handlers_may_use_gradients(make: Make) -> None:
    client = make("""
        import torch
        def handle(data, context):
            if data is None:
                return
            x = torch.ones(2, requires_grad=True)
            (3 * x).sum().backward()
            return [x.grad.tolist()]
    """)
    assert json.loads(client.invoke(b"").body) == [3, 3]


# What their clients get.

ANSWER = """
    import torch
    VALUES = {
        "bytes": b"abc", "bytearray": bytearray(b"abc"), "str": "h\\u00e4", "none": None, "list": [1, 2.5, None],
        "dict": {"a": 1}, "tensor": torch.arange(3), "set": {1},
    }
    def handle(data, context):
        return data and [VALUES[row["body"]] for row in data]
"""


@pytest.mark.parametrize(
    ("name", "body", "kind"),
    [
        ("bytes", b"abc", "application/octet-stream"),
        ("bytearray", b"abc", "application/octet-stream"),
        ("str", "hä".encode(), "text/plain; charset=utf-8"),
        ("none", b"null", "application/json"),
        ("list", b"[\n  1,\n  2.5,\n  null\n]", "application/json"),
        ("dict", b'{\n  "a": 1\n}', "application/json"),
    ],
)
def test_values_become_bytes_as_torchserves_clients_know_them(make: Make, name: str, body: bytes, kind: str) -> None:
    answer = make(ANSWER).invoke(name.encode(), "text/plain")
    assert (answer.body, answer.content_type) == (body, kind)


def test_a_tensor_is_a_file_of_torch_save(make: Make) -> None:
    answer = make(ANSWER).invoke(b"tensor", "text/plain")
    assert torch.load(io.BytesIO(bytes(answer.body)), weights_only=True).tolist() == [0, 1, 2]


def test_text_is_of_the_type_that_the_client_asks_for(make: Make) -> None:
    assert make(ANSWER).invoke(b"str", "text/plain", "application/json").content_type == "application/json"


def test_a_value_that_cannot_be_coded_fails_alone(make: Make) -> None:
    good, bad = answers(make(ANSWER, max_size=2), text("str"), text("set"))
    assert isinstance(good, Response)
    assert isinstance(bad, ServingError)
    assert (bad.status, bad.code) == (503, "unsupported_output")


# A batch keeps its members apart.

HEADERS = """
    def handle(data, context):
        if data is None:
            return
        out = []
        for i, row in enumerate(data):
            word = row["body"]
            asked = context.get_request_header(i, "x-amzn-sagemaker-custom-attributes")
            out.append(f"{word} {asked} {context.get_request_id(i)} {len(data)}")
            if word == "a":
                context.set_response_content_type(i, "text/a")
                context.set_response_status(201, "made", i)
            if word == "b":
                context.set_response_header(i, "X-Amzn-SageMaker-Custom-Attributes", "of=b")
            if word == "bad":
                context.set_all_response_status(299)
                raise ValueError("bad")
        return out
"""


def test_headers_and_statuses_stay_with_their_request(make: Make) -> None:
    requests = [text(word, request_id=f"id-{word}", sagemaker={"custom-attributes": f"w={word}"}) for word in "abc"]
    a, b, c = answers(make(HEADERS, max_size=3), *requests)
    assert isinstance(a, Response)
    assert isinstance(b, Response)
    assert isinstance(c, Response)
    assert [one.body for one in (a, b, c)] == [f"{word} w={word} id-{word} 3".encode() for word in "abc"]
    assert [one.content_type for one in (a, b, c)] == ["text/a", *2 * ["text/plain; charset=utf-8"]]
    assert [one.status for one in (a, b, c)] == [201, 200, 200]
    assert [one.custom_attributes for one in (a, b, c)] == [None, "of=b", None]


def test_a_bad_request_fails_alone_and_leaves_nothing_in_the_others_answers(make: Make) -> None:
    outcomes = answers(make(HEADERS, max_size=4), *(text(word) for word in ("c", "bad", "d", "e")))
    assert [getattr(one, "status", 0) for one in outcomes] == [200, 503, 200, 200]


def test_a_handler_may_change_its_input_and_still_be_run_again(make: Make) -> None:
    client = make(
        """
        def handle(data, context):
            if data is None:
                return
            taken = [row["body"].pop("n") for row in data]
            if 0 in taken:
                raise ValueError
            return [str(n) for n in taken]
        """,
        max_size=2,
    )
    bad, good = answers(client, *(Request(b'{"n": %d}' % n, "application/json") for n in (0, 1)))
    assert isinstance(bad, ServingError)
    assert isinstance(good, Response)
    assert good.body == b"1"


# Errors.

FAIL = """
    import torch
    from ts.utils.util import PredictionException
    def handle(data, context):
        if data is None:
            return
        return eval(data[0]["body"])
"""


@pytest.mark.parametrize(
    ("expression", "status", "code", "told"),
    [
        ("1 / 0", 503, "prediction_failed", "Prediction failed"),
        ("'x'", 503, "invalid_output", "Invalid model predict output: str"),
        ("None", 503, "invalid_output", "Invalid model predict output: NoneType"),
        ("[1, 2]", 503, "invalid_output", "number of batch response mismatched: 2 for 1"),
        ("(_ for _ in ()).throw(PredictionException('no such row', 404))", 404, "prediction_exception", "no such row"),
        ("(_ for _ in ()).throw(PredictionException('mine'))", 500, "prediction_exception", "mine"),
        ("(_ for _ in ()).throw(PredictionException('odd', 7))", 500, "prediction_exception", "odd"),
        ("(_ for _ in ()).throw(MemoryError())", 507, "out_of_memory", ""),
        ("(_ for _ in ()).throw(torch.OutOfMemoryError())", 507, "out_of_memory", ""),
        ("(_ for _ in ()).throw(ValueError('CUDA'))", 503, "prediction_failed", ""),
        ("(_ for _ in ())", 503, "invalid_output", "Invalid model predict output: generator"),
        ("[(_ for _ in ())]", 503, "unsupported_output", "Unsupported model output data type"),
        ("(lambda a: a.append(a) or a)([])", 503, "unsupported_output", "Unsupported model output data type"),
        ("['\\ud800']", 503, "unsupported_output", "Unsupported model output data type"),
        ("exit(3)", 500, "handler_error", "SystemExit"),
        ("context.set_response_status('odd')or['x']", 500, "handler_error", "status 'odd'"),
        ("context.set_response_status(99)or['x']", 500, "handler_error", "status 99"),
        ("context.set_response_header(0,'content-type',3)or['x']", 500, "handler_error", "are text"),
    ],
)
def test_each_way_to_fail_has_its_status(make: Make, expression: str, status: int, code: str, told: str) -> None:
    with pytest.raises(ServingError) as caught:
        make(FAIL).invoke(expression.encode(), "text/plain")
    assert (caught.value.status, caught.value.code) == (status, code)
    assert told in caught.value.message
    assert isinstance(caught.value, OutOfMemory) == (status == 507)


# Envelopes.

ENVELOPED = """
    def handle(data, context):
        if data is None:
            return
        return [row if isinstance(row, dict) else repr(row) for row in data]
"""


def body_of(client: Client, body: object) -> Any:
    return json.loads(client.invoke(json.dumps(body).encode()).body)


def test_envelope_body(make: Make) -> None:
    client = make(ENVELOPED, model={"envelope": "body"})
    assert client.invoke(b"[1]").body == b"[1]"


def test_envelope_json_joins_the_instances_of_a_batch(make: Make) -> None:
    client = make(ENVELOPED, max_size=2, model={"envelope": "json"})
    bodies = [{"instances": [1, 2]}, {"instances": [{"b64": "YWI="}]}]
    outcomes = answers(client, *(Request(json.dumps(one).encode(), "application/json") for one in bodies))
    assert [json.loads(one.body) for one in outcomes if isinstance(one, Response)] == [
        {"predictions": ["1", "2"]},
        {"predictions": ["b'ab'"]},
    ]


def test_envelope_kserve(make: Make) -> None:
    assert body_of(make(ENVELOPED, model={"envelope": "kserve"}), {"instances": [1, 2]}) == {"predictions": ["1", "2"]}


def test_envelope_kserve_v2(make: Make) -> None:
    script = "def handle(data, context):\n    return data and [one['data'] for one in data]\n"
    client = make(script, model={"envelope": "kservev2"})
    sent = {"name": "x", "shape": [2, 2], "datatype": "INT64", "data": [1, 2, 3, 4]}
    answer = body_of(client, {"id": "7", "inputs": [sent]})
    assert answer == {
        "id": "7",
        "model_name": "sample",
        "model_version": "1.0",
        "outputs": [{"name": "x", "datatype": "INT64", "data": [1, 2, 3, 4], "shape": [4]}],
    }


def test_envelope_kserve_v2_with_fewer_outputs_than_inputs(make: Make) -> None:
    script = "def handle(data, context):\n    return data and [7] * data[0]['data'][0]\n"
    client = make(script, model={"envelope": "kservev2"})

    def ask(count: int) -> Any:
        inputs = [{"name": name, "shape": [1], "datatype": "INT64", "data": [count]} for name in "xy"]
        return body_of(client, {"inputs": inputs})["outputs"]

    assert [one["name"] for one in ask(1)] == ["x"]
    assert [one["name"] for one in ask(2)] == ["x", "y"]
    with pytest.raises(ServingError):
        ask(3)


def test_envelope_json_gives_nobody_the_results_of_another(make: Make) -> None:
    script = "def handle(data, context):\n    return data and [one for one in data if one != 'lost']\n"
    client = make(script, max_size=2, model={"envelope": "json"})
    requests = [Request(b'{"instances": ["lost", "a"]}', "application/json"), Request(b'{"instances": ["b"]}')]
    bad, good = answers(client, *requests)
    assert isinstance(bad, ServingError)
    assert (bad.status, bad.code) == (503, "prediction_failed")
    assert isinstance(good, Response)
    assert json.loads(good.body) == {"predictions": ["b"]}


@pytest.mark.parametrize("envelope", ["json", "kserve", "kservev2"])
def test_a_body_that_does_not_fit_the_envelope_is_400(make: Make, envelope: str) -> None:
    with pytest.raises(ServingError) as caught:
        body_of(make(ENVELOPED, model={"envelope": envelope}), [1])
    assert caught.value.status == 400
