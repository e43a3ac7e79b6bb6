"""Scripts written for DJL Serving: Input and Output, batches, streams, and serving.properties.

The scripts are written here to the shape of DJL's own examples.
"""

from __future__ import annotations

import contextlib
import io
import json
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import Request
from serving.adapters.djl import ndlist
from serving.adapters.djl.handler import DjlHandler
from serving.adapters.properties import parse, read_properties
from serving.config.config import load
from serving.errors import BadRequest, HandlerError, ModelError, ServingError
from serving.handler import BatchPolicy
from serving.model.folder import read_model
from serving.request import Response
from serving.testing import Client


class Rig:
    def __init__(self, folder: Path, script: str, max_size: int = 1, **properties: str) -> None:
        path = folder / "model.py"
        path.write_text(textwrap.dedent(script))
        handler = DjlHandler()
        handler.policy = BatchPolicy(max_size=max_size)
        self.client = Client(handler, folder, script=str(path), properties=properties)

    def ask(self, body: bytes = b"{}", kind: str = "application/json", accept: str = "", **headers: str) -> Response:
        return self.client.invoke(body, kind, accept, **headers)


ECHO = """
    from djl_python import Input, Output

    calls = []

    def handle(inputs: Input) -> Output:
        if inputs.is_empty():
            calls.append(dict(inputs.get_properties()))
            return None
        return Output().add_as_json({"data": inputs.get_as_json(), "size": inputs.get_property("SIZE"),
                                     "kind": inputs.get_property("content-type"), "start": calls})
"""


def test_the_script_is_started_with_an_empty_input_that_has_its_properties(tmp_path: Path) -> None:
    answer = json.loads(bytes(Rig(tmp_path, ECHO, size="large").ask(b"[1, 2]").body))
    assert answer["start"] == [{"size": "large", "model_dir": str(tmp_path), "device_id": "-1"}]
    assert answer["data"] == [1, 2]
    assert answer["kind"] == "application/json"


def test_custom_attributes_are_properties(tmp_path: Path) -> None:
    answer = Rig(tmp_path, ECHO).ask(b"1", custom_attributes="size=7;other=x")
    assert json.loads(bytes(answer.body))["size"] == "7"


@pytest.mark.parametrize(
    ("call", "body", "kind", "seen"),
    [
        ("get_as_bytes()", b"\x01\x02", "application/octet-stream", "bytearray(b'\\x01\\x02')"),
        ("get_as_string()", b"abc", "text/plain", "abc"),
        ("get_as_json('data')", b'{"a": 1}', "application/json", "{'a': 1}"),
        ("get_as_csv()", b"a,b\n1,2\n", "text/csv", "[{'a': '1', 'b': '2'}]"),
        ("get_as_csv()", b"\xef\xbb\xbfa,b\n1,2\n", "text/csv", "[{'a': '1', 'b': '2'}]"),
        ("get_as_string()", b"caf\xe9", "text/plain; charset=iso-8859-1", "café"),
        ("get_as_json()", '["é"]'.encode("utf-16"), "application/json", "['é']"),
        ("get_batches()[0].get_as_string()", b"caf\xe9", "text/plain; charset=iso-8859-1", "café"),
        ("get_data()", b"[1]", "application/json; charset=utf-8", "[1]"),
        ("get_data()", b"abc", "text/plain", "abc"),
        ("get_batches()[0].get_as_string()", b"abc", "text/plain", "abc"),
        ("contains_key('data')", b"abc", "text/plain", "True"),
        ("get_content().get_keys()", b"abc", "text/plain", "['data']"),
        ("is_batch()", b"abc", "text/plain", "False"),
    ],
)
def test_what_an_input_gives(tmp_path: Path, call: str, body: bytes, kind: str, seen: str) -> None:
    script = f"""
        from djl_python import Input, Output
        def handle(inputs):
            return None if inputs.is_empty() else Output().add(str(inputs.{call}))
    """
    assert bytes(Rig(tmp_path, script).ask(body, kind).body).decode() == seen


def test_npz_goes_in_and_out(tmp_path: Path) -> None:
    script = """
        from djl_python.inputs import Input
        from djl_python.outputs import Output
        def handle(inputs):
            if inputs.is_empty(): return None
            out = Output().add_as_npz([2 * one for one in inputs.get_data()])
            return out.add_property("Content-Type", "tensor/npz")
    """
    buffer = io.BytesIO()
    np.savez(buffer, np.arange(3))
    rig = Rig(tmp_path, script)
    answer = rig.ask(buffer.getvalue(), "tensor/npz")
    assert np.load(io.BytesIO(answer.body))["arr_0"].tolist() == [0, 2, 4]
    assert answer.content_type == "tensor/npz"


def test_properties_of_an_output_become_headers(tmp_path: Path) -> None:
    script = """
        from djl_python import Output
        def handle(inputs):
            out = Output().add_property("Content-Type", "text/x-own")
            return out.add_property("X-Amzn-SageMaker-Custom-Attributes", "a=1").add("hi")
    """
    answer = Rig(tmp_path, script).ask()
    assert (bytes(answer.body), answer.content_type, answer.custom_attributes) == (b"hi", "text/x-own", "a=1")


def test_an_error_of_the_script_is_424_unless_it_says_otherwise(tmp_path: Path) -> None:
    script = """
        from djl_python import Output
        def handle(inputs):
            return None if inputs.is_empty() else Output().error("no luck", **inputs.get_as_json())
    """
    rig = Rig(tmp_path, script)
    answer = rig.ask()
    assert (answer.status, json.loads(bytes(answer.body))["error"]) == (424, "no luck")
    assert rig.ask(b'{"code": 503}').status == 503


def test_a_batch_is_one_call_with_a_part_for_each_request(tmp_path: Path) -> None:
    script = """
        from djl_python import Output
        def handle(inputs):
            if inputs.is_empty(): return None
            batch = inputs.get_batches()
            out = Output()
            for one in batch:
                out.add_as_json([one.get_as_json(), len(batch), one.get_property("content-type")])
            return out
    """
    rig = Rig(tmp_path, script, max_size=4)
    answers = rig.client.batch([Request(body, "application/json") for body in (b"1", b"2", b"3")])
    assert [json.loads(bytes(one.body)) for one in answers] == [  # type: ignore[union-attr]
        [n, 3, "application/json"] for n in (1, 2, 3)
    ]


def test_parts_may_be_told_by_their_index(tmp_path: Path) -> None:
    script = """
        from djl_python import Output
        def handle(inputs):
            if inputs.is_empty(): return None
            out = Output()
            for index in reversed(range(inputs.get_batch_size())):
                out.add(f"{index}", batch_index=index)
            return out
    """
    rig = Rig(tmp_path, script, max_size=4)
    answers = rig.client.batch([Request(b"1"), Request(b"2")])
    assert [bytes(one.body) for one in answers] == [b"0", b"1"]  # type: ignore[union-attr]


def test_an_error_or_a_wrong_count_in_a_batch_is_of_one_request(tmp_path: Path) -> None:
    script = """
        from djl_python import Output
        def handle(inputs):
            if inputs.is_empty(): return None
            out, bodies = Output(), [one.get_as_string() for one in inputs.get_batches()]
            if "bad" in bodies:
                return out.error("bad one")
            for index, body in enumerate(bodies):
                if body != "lost":
                    out.add(body, batch_index=index)
                    out.add_property(f"batch_{index:03d}_Content-Type", f"text/x-{body}")
            return out
    """
    rig = Rig(tmp_path, script, max_size=4)
    one, bad, lost, two = rig.client.batch([Request(body) for body in (b"1", b"bad", b"lost", b"2")])
    assert isinstance(one, Response)
    assert isinstance(two, Response)
    assert [(bytes(each.body), each.content_type) for each in (one, two)] == [(b"1", "text/x-1"), (b"2", "text/x-2")]
    assert isinstance(bad, Response)
    assert (bad.status, json.loads(bytes(bad.body))["error"]) == (424, "bad one")
    assert isinstance(lost, Response)
    assert (lost.status, bytes(lost.body)) == (200, b"")  # as an output without parts is for a single request


def test_a_client_does_not_say_where_the_model_lies(tmp_path: Path) -> None:
    script = """
        from djl_python import Output
        def handle(inputs):
            return None if inputs.is_empty() else Output().add(inputs.get_property("model_dir"))
    """
    assert bytes(Rig(tmp_path, script).ask(custom_attributes="model_dir=/etc").body).decode() == str(tmp_path)


DOUBLED = """
    from djl_python import Output
    def handle(inputs):
        if inputs.is_empty(): return None
        assert inputs.get_content().size() == 1
        return Output().add_as_numpy([one * 2 for one in inputs.get_as_numpy()])
"""


def test_lists_of_arrays_go_in_and_out_as_djls_clients_write_them(tmp_path: Path) -> None:
    one = b"\0\0\0\1" + b"\0\4NDAR" + b"\0\0\0\3" + b"\1\0\1x" + b"\0\7default" + b"\0\5INT32"
    shape = b"\0\0\0\1" + b"\0\0\0\0\0\0\0\2" + b"\0\0\0\1\0?"
    rig = Rig(tmp_path, DOUBLED)
    answer = rig.ask(one + shape + b">\0\0\0\x08" + b"\0\0\0\1\0\0\0\2", "tensor/ndlist")
    assert bytes(answer.body) == (one.replace(b"\1\0\1x", b"\0") + shape + b"<\0\0\0\x08" + b"\2\0\0\0\4\0\0\0")
    assert answer.content_type == "application/octet-stream"
    buffer = io.BytesIO()
    np.savez(buffer, np.arange(3.0), np.float16(1.5))
    found = ndlist.read(rig.ask(buffer.getvalue(), "tensor/npz").body)
    assert [(one.dtype.name, one.tolist()) for one in found] == [("float64", [0, 2, 4]), ("float16", 3.0)]


@pytest.mark.parametrize("name", ndlist.TYPES)
def test_every_type_of_an_array_comes_back(name: str) -> None:
    array = np.array([[0, 1, 1]]).astype(ndlist.TYPES[name])
    [found] = ndlist.read(ndlist.write(array))
    assert (found.dtype, found.tolist()) == (array.dtype, array.tolist())
    assert found.flags.writeable


WHOLE = ndlist.write(np.arange(6, dtype=np.float32).reshape(2, 3))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "4 bytes are announced, 0 are left"),
        (WHOLE[:-1], "24 bytes are announced, 23 are left"),
        (WHOLE.replace(b"NDAR", b"NDAX"), "NDAX"),
        (WHOLE.replace(b"default", b"CSR_SPA"), "'CSR_SPA' of 'FLOAT32'"),
        (WHOLE.replace(b"FLOAT32", b"STRINGS"), "of 'STRINGS'"),
        (WHOLE.replace(bytes(7) + b"\2", bytes(7) + b"\3"), "shape .3, 3. has 24 bytes"),
        (WHOLE.replace(bytes(7) + b"\2", b"\xff" * 8), "shape .-1, 3. has 24 bytes"),
    ],
)
def test_what_is_no_list_of_arrays_is_the_clients_mistake(tmp_path: Path, body: bytes, words: str) -> None:
    with pytest.raises(ServingError, match=words) as caught:
        Rig(tmp_path, DOUBLED).ask(body, "tensor/ndlist")
    assert caught.value.status == 400


@given(st.binary(max_size=80) | st.integers(0, len(WHOLE) - 1).map(lambda at: WHOLE[:at] + b"\xff" + WHOLE[at + 1 :]))
def test_any_bytes_give_arrays_or_a_bad_request(body: bytes) -> None:
    with contextlib.suppress(BadRequest):
        ndlist.read(body)


def test_arrays_of_objects_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(HandlerError, match="an array of object"):
        ndlist.write([np.array([{}])])


def test_a_script_that_raises_is_a_500_without_its_words(tmp_path: Path) -> None:
    script = """
        def handle(inputs):
            if not inputs.is_empty(): raise ValueError("secret")
    """
    with pytest.raises(ServingError) as caught:
        Rig(tmp_path, script).ask()
    assert caught.value.status == 500
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("def model_fn(model_dir): pass", "no function handle; model_fn are SageMaker's"),
        ("from djl_python.output_formatter import output_formatter", "djl_python.output_formatter"),
        ("from djl_python.input_parser import input_formatter", "djl_python.input_parser"),
    ],
)
def test_what_belongs_to_other_handlers_ends_the_start(tmp_path: Path, script: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        Rig(tmp_path, script)


def test_options_from_the_environment_are_weaker_than_the_files(tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text("")
    (tmp_path / "serving.properties").write_text("option.size=large\n")
    config = load({"OPTION_SIZE": "small", "OPTION_COLOUR": "red", "OPTION_ENTRYPOINT": "run.py"})
    options = read_model(tmp_path, "m", config, 4).options
    assert options["properties"] == {"size": "large", "colour": "red"}
    assert options["script"] == str(tmp_path / "run.py")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gpu.minWorkers=1", "gpu.minWorkers"),
        ("load_on_devices=0", "load_on_devices"),
        ("option.rolling_batch=auto\noption.predict_timeout=3", "predict_timeout, rolling_batch"),
        ("minWorkers=1\nmaxWorkers=4", "maxWorkers has no effect"),
        ("engine=MPI", "an engine for many processes runs in one"),
        ("engine = DeepSpeed", "an engine for many processes runs in one"),
    ],
)
def test_what_has_no_effect_is_named(tmp_path: Path, text: str, words: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "serving.properties").write_text(text)
    read_properties(tmp_path)
    [record] = caplog.records
    assert words in f"{record.getMessage()} {vars(record)['fields']}"


@pytest.mark.parametrize("result", ["{'a': 1}", "b'x'", "(Output(), 'text/plain')", "Output"])
def test_a_result_that_does_not_fit_is_a_500(tmp_path: Path, result: str) -> None:
    script = f"""
        from djl_python import Output
        def handle(inputs):
            return None if inputs.is_empty() else {result}
    """
    with pytest.raises(ServingError) as caught:
        Rig(tmp_path, script).ask()
    assert caught.value.status == 500


@pytest.mark.parametrize(
    ("formatter", "kind", "body"),
    [
        ("None", "application/octet-stream", b"a" + b"b"),
        ("'jsonlines'", "application/jsonlines", b'{"outputs": "a"}\n{"outputs": "b"}\n'),
        ("'sse'", "text/event-stream", b'data: "a"\n\ndata: "b"\n\n'),
        ("lambda one: one.upper()", "application/octet-stream", b"AB"),
    ],
)
def test_a_stream_is_an_answer_in_pieces(tmp_path: Path, formatter: str, kind: str, body: bytes) -> None:
    script = f"""
        from djl_python import Output
        def handle(inputs):
            if inputs.is_empty(): return None
            return Output().add_stream_content(iter(["a", "b"]), output_formatter={formatter})
    """
    answer = Rig(tmp_path, script).ask(accept="application/octet-stream")
    assert (bytes(answer.body), answer.content_type) == (body, kind)


def test_the_properties_file_says_how(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("")
    (tmp_path / "serving.properties").write_text(
        "engine=Python\n# a comment\nbatch_size = 8\nmax_batch_delay=50\nminWorkers=2\noption.size: large\n"
        "option.handler=run\njob_queue_size=7\ngpu.minWorkers=1\n"
    )
    found = read_properties(tmp_path)
    assert (found.batch_size, found.max_batch_delay, found.workers, found.job_queue_size) == (8, 50, 2, 7)
    assert (found.function, found.script, found.options) == ("run", "model.py", {"size": "large"})
    model = read_model(tmp_path, "m", load({}), 4)
    assert model.handler.endswith(":DjlHandler")
    assert (model.replicas, model.batch.max_size, model.batch.max_delay_ms, model.batch.queue_size) == (2, 8, 50, 7)
    (tmp_path / "serving.toml").write_text("replicas = 1\n[batch]\nmax_size = 3\n")
    model = read_model(tmp_path, "m", load({"SERVING_BATCH_SIZE": "5", "SERVING_BATCH_DELAY_MS": "9"}), 4)
    assert (model.replicas, model.batch.max_size, model.batch.max_delay_ms) == (1, 3, 9)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("engine=MXNet", "engine is 'MXNet'; allowed: Python, "),
        ("engine=MPI\noption.tensor_parallel_degree=4", "engine is 'MPI' and option.tensor_parallel_degree '4'"),
        ("engine=DeepSpeed\noption.tensor_parallel_degree=max", "allowed: 1, or engine=Python"),
        ("batch_size=many", "batch_size is 'many'"),
        ("option.entryPoint=x.py", "x.py"),
    ],
)
def test_what_is_wrong_in_it_is_named(tmp_path: Path, text: str, error: str) -> None:
    (tmp_path / "model.py").write_text("")
    (tmp_path / "serving.properties").write_text(text)
    with pytest.raises(ModelError, match=error):
        read_model(tmp_path, "m", load({}), 4)


def test_lines_of_properties() -> None:
    assert parse("a=1\n\n! no\nb : x=y\nc\n") == {"a": "1", "b": "x=y", "c": ""}


def test_a_script_without_its_function_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no function handle"):
        Rig(tmp_path, "x = 1")
