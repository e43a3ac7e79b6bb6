"""Scripts written for the SageMaker toolkits: each function, its defaults, its context, its errors.

The scripts were written here as the toolkits' documentation shows them; ``tests/compat`` has the toolkit itself.
"""

from __future__ import annotations

import json
import textwrap
import warnings
from pathlib import Path

import pytest
import torch

from serving import Request
from serving.adapters.toolkit.handler import ToolkitHandler
from serving.errors import ModelError, ServingError
from serving.handler import BatchPolicy
from serving.http.accept import wanted
from serving.request import Response
from serving.testing import Client


class Rig:
    def __init__(self, folder: Path, script: str, max_size: int = 1) -> None:
        path = folder / "code" / "inference.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(script))
        handler = ToolkitHandler()
        handler.policy = BatchPolicy(max_size=max_size)
        self.client = Client(handler, folder, script=str(path))

    def ask(
        self, body: bytes = b"[1, 2]", kind: str = "application/json", accept: str = "", **headers: str
    ) -> Response:
        return self.client.invoke(body, kind, accept, **headers)

    def error(self, body: bytes = b"[1, 2]", kind: str = "application/json", accept: str = "") -> ServingError:
        with pytest.raises(ServingError) as caught:
            self.ask(body, kind, accept)
        return caught.value


FOUR = """
    import json
    def model_fn(model_dir): return {"dir": model_dir}
    def input_fn(input_data, content_type): return [type(input_data).__name__, content_type, len(input_data)]
    def predict_fn(data, model): return data + [bool(model["dir"])]
    def output_fn(prediction, accept): return json.dumps(prediction + [accept])
"""


def test_the_four_functions_are_called_in_turn(tmp_path: Path) -> None:
    answer = Rig(tmp_path, FOUR).ask(b"[1]")
    assert json.loads(bytes(answer.body)) == ["str", "application/json", 3, True, "application/json"]
    assert answer.content_type == "application/json"


@pytest.mark.parametrize(
    ("kind", "seen"),
    [
        ("application/json; charset=utf-8", "str"),
        ("text/csv", "str"),
        ("application/x-npy", "bytearray"),
        ("", "bytearray"),
    ],
)
def test_input_data_is_text_for_json_and_csv_and_bytes_otherwise(tmp_path: Path, kind: str, seen: str) -> None:
    assert json.loads(bytes(Rig(tmp_path, FOUR).ask(b"1", kind).body))[0] == seen


@pytest.mark.parametrize(
    ("accept", "given"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("text/csv", "text/csv"),
        ("text/csv;q=0.2, application/x-npy;q=0.9", "application/x-npy"),
        ("text/csv;q=0.2, */*;q=0.9", "application/json"),
        ("junk", "application/json"),
    ],
)
def test_output_fn_gets_one_concrete_type(accept: str, given: str) -> None:
    assert wanted(accept, "application/json") == given


def test_output_fn_may_name_its_own_type(tmp_path: Path) -> None:
    script = FOUR + '    def output_fn(prediction, accept): return b"x", "image/x-mine"\n'
    answer = Rig(tmp_path, script).ask()
    assert (answer.body, answer.content_type) == (b"x", "image/x-mine")


def scripted(folder: Path, name: str = "model.pt") -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(torch.nn.Flatten(0)), str(folder / name))


def test_everything_has_a_default_around_a_torchscript_file(tmp_path: Path) -> None:
    scripted(tmp_path, "other.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        rig = Rig(tmp_path, "")
    assert json.loads(bytes(rig.ask(b"[[1, 2]]").body)) == [1.0, 2.0]
    assert bytes(rig.ask(b"[[1, 2]]", accept="text/csv").body) == b"1.0\n2.0\n"
    assert rig.error(kind="application/x-what").status == 415
    assert rig.error(accept="image/png").status == 406
    assert rig.error(b"{").status == 400


def test_without_any_model_file_the_default_model_fn_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.pt"):
        Rig(tmp_path, "")
    torch.save({}, tmp_path / "model.pt")
    with pytest.raises(ModelError, match="define model_fn"):
        Rig(tmp_path, "")


def test_transform_fn_replaces_the_three_and_excludes_them(tmp_path: Path) -> None:
    script = """
        def model_fn(model_dir): return 7
        def transform_fn(model, input_data, content_type, accept): return f"{model} {input_data} {content_type}", "a/b"
    """
    answer = Rig(tmp_path, script).ask(b"[1]")
    assert (answer.body, answer.content_type) == (b"7 [1] application/json", "a/b")
    with pytest.raises(ModelError, match="predict_fn"):
        Rig(tmp_path, textwrap.dedent(script) + "\ndef predict_fn(data, model): return data\n")


def test_the_context_comes_by_count_and_carries_headers_both_ways(tmp_path: Path) -> None:
    script = """
        def model_fn(model_dir, context): return context.system_properties["model_dir"]
        def input_fn(input_data, content_type, context):
            return context.get_request_header(0, "x-amzn-sagemaker-custom-attributes")
        def predict_fn(data, model, ctx):
            ctx.set_response_header(0, "X-Amzn-SageMaker-Custom-Attributes", data + "!")
            ctx.set_response_content_type(0, "text/x-special")
            return data
        def output_fn(prediction, accept): return prediction
    """
    answer = Rig(tmp_path, script).ask(custom_attributes="trace=1")
    assert (answer.body, answer.content_type, answer.custom_attributes) == (b"trace=1", "text/x-special", "trace=1!")


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("def predict_fn(data): return data", "predict_fn takes 1 arguments; allowed: 2, or 3 with context"),
        ("def predict_fn(data, model, *, device): return data", "predict_fn needs device by name; allowed: context"),
        ("async def predict_fn(data, model): return data", "predict_fn is a coroutine function"),
        ("predict_fn = dict", "predict_fn does not tell its parameters"),
    ],
)
def test_a_function_that_cannot_be_called_is_refused_at_the_start(tmp_path: Path, function: str, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        Rig(tmp_path, textwrap.dedent(FOUR) + function)


@pytest.mark.parametrize(
    ("signature", "seen"),
    [
        ("data, model", "None"),
        ("data, model, anything", "Context"),
        ("data, model, context=None", "Context"),
        ("context, data, model", "Context"),
        ("data, model, *, context", "Context"),
        ("data, model, *more", "Context"),
        ("data, model, **more", "Context"),
        ("*more", "None"),
        ("*more, **named", "None"),
        ("data, *more, context=None", "Context"),
    ],
)
def test_the_context_is_given_by_name_or_by_count(tmp_path: Path, signature: str, seen: str) -> None:
    script = f"""
        def model_fn(model_dir): return 0
        def input_fn(data, kind): return data
        def predict_fn({signature}):
            extra = [one for one in locals().values() if type(one).__name__ == "Context"]
            for one in locals().values():
                inner = one.values() if isinstance(one, dict) else one if isinstance(one, tuple) else ()
                extra += [part for part in inner if type(part).__name__ == "Context"]
            return type(extra[0]).__name__ if extra else "None"
        def output_fn(prediction, accept): return prediction
    """
    assert bytes(Rig(tmp_path, script).ask().body).decode() == seen


def test_the_context_is_all_of_torchserves(tmp_path: Path) -> None:
    script = """
        import json
        def model_fn(model_dir, context):
            assert context.request_processor is None
            return sorted(context.system_properties)
        def input_fn(data, kind, context):
            [processor] = context.request_processor
            context.metrics.add_counter("calls", 1)
            return [processor.get_request_properties()["X-Amzn-SageMaker-Custom-Attributes"], kind]
        def predict_fn(data, model, context):
            context.set_response_status(201, "made", 0)
            more = [context.manifest["model"]["modelName"], context.model_yaml_config, context.get_sequence_id(0)]
            return data + more + [context.stopping_criteria, context.get_request_id(0), model]
        def output_fn(prediction, accept): return json.dumps(prediction)
    """
    answer = Rig(tmp_path, script).ask(custom_attributes="k=v")
    properties = ["batch_size", "gpu_id", "limit_max_image_pixels", "model_dir", "server_name", "server_version"]
    assert json.loads(bytes(answer.body)) == ["k=v", "application/json", "model", {}, None, None, "", properties]
    assert answer.status == 201


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON"])
def test_scripts_compare_the_bare_type_of_text(tmp_path: Path, kind: str) -> None:
    assert json.loads(bytes(Rig(tmp_path, FOUR).ask(b"1", kind).body))[1] == "application/json"


@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=x", "text/csv; header=present"])
def test_other_parameters_of_the_type_are_kept(tmp_path: Path, kind: str) -> None:
    assert json.loads(bytes(Rig(tmp_path, FOUR).ask(b"1", kind).body))[1] == kind


def test_without_predict_fn_the_model_is_in_evaluation_mode(tmp_path: Path) -> None:
    script = """
        import torch
        class Mode(torch.nn.Module):
            def forward(self, x): return torch.tensor([self.training, x.requires_grad or torch.is_grad_enabled()])
        def model_fn(model_dir): return Mode().train()
    """
    assert json.loads(bytes(Rig(tmp_path, script).ask().body)) == [False, False]


def test_predict_fn_may_use_gradients(tmp_path: Path) -> None:
    script = """
        import torch
        def model_fn(model_dir): return torch.nn.Linear(2, 1, bias=False)
        def predict_fn(data, model):
            data.requires_grad_()
            model(data).sum().backward()
            return (data.grad == model.weight[0]).all(dim=-1).tolist()
    """
    assert bytes(Rig(tmp_path, script).ask().body) == b"true"
    answers = Rig(tmp_path, script, max_size=2).client.batch([Request(b"[1, 2]", "application/json")] * 2)
    assert [bytes(one.body) for one in answers if isinstance(one, Response)] == [b"true", b"true"]


def test_what_was_pickled_from_the_script_as_a_module_can_be_read(tmp_path: Path) -> None:
    script = """
        import importlib
        def model_fn(model_dir): return 0
        def transform_fn(model, data, kind, accept):
            return str(importlib.import_module("renamed_script").transform_fn is transform_fn)
    """
    path = tmp_path / "renamed_script.py"
    path.write_text(textwrap.dedent(script))
    assert Client(ToolkitHandler(), tmp_path, script=str(path)).invoke(b"").body == b"True"


def test_requests_of_the_toolkits_own_batches_run_alone(tmp_path: Path) -> None:
    script = """
        def model_fn(model_dir): return 0
        def predict_fn(data, model, context):
            context.set_response_header(0, "X-Amzn-SageMaker-Custom-Attributes", context.get_request_id(0))
            return list(data.shape)
    """
    path = tmp_path / "alone.py"
    path.write_text(textwrap.dedent(script))
    handler = ToolkitHandler()
    handler.policy = BatchPolicy(max_size=4)
    requests = [Request(b"[1, 2]", "application/json", request_id=name) for name in "ab"]
    answers = Client(handler, tmp_path, script=str(path), stacks=False).batch(requests)
    found = [(bytes(one.body), one.custom_attributes) for one in answers if isinstance(one, Response)]
    assert found == [(b"[2]", "a"), (b"[2]", "b")]


def test_the_context_of_a_batch_knows_each_request_by_its_index(tmp_path: Path) -> None:
    script = """
        def model_fn(model_dir): return 0
        def batch_predict_fn(batch, model, context):
            for index in range(len(batch)):
                told = context.get_request_header(index, "X-Amzn-SageMaker-Custom-Attributes")
                context.set_response_header(index, "X-Amzn-SageMaker-Custom-Attributes", told + "!")
                context.set_response_content_type(index, f"text/{told}")
            return [context.get_request_id(index) for index in range(len(batch))]
        def output_fn(prediction, accept): return prediction
    """
    requests = [
        Request(b"1", "application/json", request_id=f"id-{name}", sagemaker={"custom-attributes": name})
        for name in "abc"
    ]
    answers = Rig(tmp_path, script, max_size=8).client.batch(requests)
    found = [(one.body, one.content_type, one.custom_attributes) for one in answers if isinstance(one, Response)]
    assert found == [(f"id-{name}".encode(), f"text/{name}", f"{name}!") for name in "abc"]


@pytest.mark.parametrize("failure", ["raise SystemExit(3)", "raise KeyboardInterrupt", "1 / 0", "raise Odd()"])
def test_whatever_a_function_raises_hurts_one_request_and_tells_its_client_nothing(
    tmp_path: Path, failure: str
) -> None:
    script = f"""
        class Odd(Exception):
            def __str__(self): raise ValueError("secret")
        def model_fn(model_dir): return 0
        def predict_fn(data, model):
            secret = 1
            if data[0] == 1:
                {failure}
            return data
    """
    requests = [Request(f"[{number}]".encode(), "application/json") for number in (0, 1, 2)]
    answers = Rig(tmp_path, script, max_size=1).client.batch(requests)
    assert [getattr(one, "status", 0) for one in answers] == [200, 500, 200]
    message = getattr(answers[1], "message", "")
    assert "secret" not in message
    assert "Traceback" not in message


@pytest.mark.parametrize(
    ("function", "status"),
    [
        ("def input_fn(d, c): raise ValueError('x')", 500),
        ("def input_fn(d, c): raise Refused('x')", 422),
        ("def predict_fn(d, m): raise ValueError('x')", 500),
        ("def predict_fn(d, m): raise Refused('x')", 422),
        ("def output_fn(p, a): raise Refused('x')", 422),
    ],
)
def test_what_a_function_raises_is_500_unless_it_has_a_status(tmp_path: Path, function: str, status: int) -> None:
    script = textwrap.dedent(FOUR) + f"\nclass Refused(Exception): status_code = 422\n{function}\n"
    assert Rig(tmp_path, script).error().status == status


def test_a_script_that_cannot_be_imported_names_itself_and_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"inference\.py failed: ModuleNotFoundError"):
        Rig(tmp_path, "import nothing_of_that_name")


def test_the_other_modules_of_the_code_folder_can_be_imported(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "toolkit_neighbour.py").write_text("VALUE = 'next door'")
    script = FOUR + "    from toolkit_neighbour import VALUE\n    def output_fn(p, a): return VALUE\n"
    assert Rig(tmp_path, script).ask().body == b"next door"


def test_pre_model_fn_and_warm_up_are_called(tmp_path: Path) -> None:
    script = """
        seen = []
        def pre_model_fn(model_dir): seen.append("pre")
        def model_fn(model_dir): seen.append("model"); return 1
        def model_warmup_fn(model_dir, model): seen.append("warm")
        def input_fn(d, c): return d
        def predict_fn(d, m): return seen
    """
    assert json.loads(bytes(Rig(tmp_path, script).ask().body)) == ["pre", "model", "warm"]


def test_with_a_larger_batch_tensors_are_stacked_for_predict_fn(tmp_path: Path) -> None:
    script = """
        def model_fn(model_dir): return 1
        def predict_fn(data, model): return data * data.shape[0]
    """
    outcomes = Rig(tmp_path, script, max_size=8).client.batch([Request(b"[1, 2]", "application/json")] * 3)
    assert [bytes(one.body) for one in outcomes if isinstance(one, Response)] == [b"[3.0, 6.0]"] * 3


@pytest.mark.parametrize("name", ["transform_fn", "output_fn", "predict_fn"])
def test_a_generator_is_an_answer_in_pieces_and_sets_headers_before_the_first(tmp_path: Path, name: str) -> None:
    script = """
        def model_fn(model_dir): return None
        def {name}({arguments}context):
            context.set_response_header(0, "X-Amzn-SageMaker-Custom-Attributes", "a=1")
            context.set_response_content_type(0, "text/event-stream")
            yield "one "
            yield b"two"
    """
    arguments = {"transform_fn": "model, data, kind, accept, ", "output_fn": "prediction, accept, "}
    script = script.format(name=name, arguments=arguments.get(name, "data, model, "))
    if name == "output_fn":
        script += "    def predict_fn(data, model): return data\n    "
    answer = Rig(tmp_path, script).ask()
    assert bytes(answer.body) == b"one two"
    assert answer.custom_attributes == "a=1"
    assert answer.content_type == "text/event-stream"


def test_a_generator_that_fails_at_once_is_an_ordinary_error(tmp_path: Path) -> None:
    script = """
        def model_fn(model_dir): return None
        def transform_fn(model, data, kind, accept):
            raise ValueError("no")
            yield "never"
    """
    assert Rig(tmp_path, script).error().status == 500


def test_an_async_generator_is_one_too(tmp_path: Path) -> None:
    script = """
        import asyncio
        def model_fn(model_dir): return None
        async def transform_fn(model, data, kind, accept):
            yield "one "
            await asyncio.sleep(0)
            yield "two"
    """
    assert bytes(Rig(tmp_path, script).ask().body) == b"one two"
