"""A folder with nothing but a TorchScript or exported file is a served model."""

from __future__ import annotations

import io
import json
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from handlers.image_classification import ImageClassificationHandler
from handlers.module import ModuleHandler
from handlers.tabular import TabularHandler
from serving import Request
from serving.errors import BadRequest, ModelError, ServingError
from serving.request import Response
from serving.testing import Client


class Net(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float().flatten(1).sum(1, keepdim=True) * 2


class Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x + 1, x.sum(1)


def script(module: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit is old, its files are many
        torch.jit.save(torch.jit.script(module), str(path))
    return path.parent


def export(path: Path, rows: int, dynamic: bool) -> Path:
    shapes = ({0: torch.export.Dim("rows", min=1, max=4096)},) if dynamic else None
    program = torch.export.export(Net(), (torch.ones(rows, 3),), dynamic_shapes=shapes)
    torch.export.save(program, path)
    return path.parent


def ask(client: Client, body: object, **words: Any) -> Any:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return json.loads(bytes(client.invoke(data, **words).body))


@pytest.fixture
def scripted(tmp_path: Path) -> Client:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return Client(ModuleHandler, script(Net(), tmp_path / "model.pt"))


def test_rows_go_in_and_as_many_come_out(scripted: Client) -> None:
    assert ask(scripted, {"instances": [[1, 2], [3, 4], [5, 6]]}) == [[6.0], [14.0], [22.0]]
    assert ask(scripted, b"1,2\n3,4\n", content_type="text/csv") == [[6.0], [14.0]]


def test_a_flat_list_is_one_row_and_so_is_its_answer(scripted: Client) -> None:
    assert ask(scripted, [1.5, 2.5]) == [8.0]


def test_an_image_is_one_row(scripted: Client) -> None:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("L", (4, 4), 255).save(buffer, "PNG")
    assert ask(scripted, buffer.getvalue(), content_type="image/png") == [32.0]


def test_requests_of_unequal_row_counts_share_a_batch_and_get_their_own_rows(scripted: Client) -> None:
    bodies = [b"[[1, 1]]", b"[[2, 2], [3, 3]]", b"[4, 4]"]
    outcomes = scripted.batch([Request(body, "application/json") for body in bodies])
    answers = [json.loads(bytes(one.body)) for one in outcomes if isinstance(one, Response)]
    assert answers == [[[4.0]], [[8.0], [12.0]], [16.0]]


def test_one_request_that_does_not_fit_the_model_fails_alone(scripted: Client) -> None:
    outcomes = scripted.batch([Request(b"[[1, 1]]", "application/json"), Request(b'{"a": 1}', "application/json")])
    assert isinstance(outcomes[0], Response)
    assert isinstance(outcomes[1], BadRequest)


def test_several_outputs_are_split_together(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        client = Client(ModuleHandler, script(Pair(), tmp_path / "net.pt"))
    assert ask(client, [[1.0, 2.0]]) == [[[2.0, 3.0]], [3.0]]


def test_an_exported_program_with_a_free_batch_dimension_is_batched(tmp_path: Path) -> None:
    client = Client(ModuleHandler, export(tmp_path / "net.pt2", 2, dynamic=True))
    assert client.handler.policy.max_size == 32
    assert ask(client, [[1.0, 2.0, 3.0]]) == [[12.0]]


def test_an_exported_program_with_a_fixed_one_runs_each_request_alone(tmp_path: Path) -> None:
    client = Client(ModuleHandler, export(tmp_path / "net.pt2", 2, dynamic=False))
    assert client.handler.policy.max_size == 1
    body = b"[[1.0, 1, 1], [2, 2, 2]]"
    outcomes = client.batch([Request(body, "application/json")] * 2)
    assert [json.loads(bytes(one.body)) for one in outcomes if isinstance(one, Response)] == [[[6.0], [12.0]]] * 2
    [wrong] = client.batch([Request(b"[[1.0, 1, 1]]", "application/json")])
    assert isinstance(wrong, ServingError)


def test_a_state_dict_says_what_it_needs(tmp_path: Path) -> None:
    torch.save(nn.Linear(1, 1).state_dict(), tmp_path / "model.pt")
    with pytest.raises(ModelError, match="state_dict needs a handler"):
        Client(ModuleHandler, tmp_path)


def test_a_pickled_module_needs_consent_and_is_then_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(nn.Flatten(), tmp_path / "model.pth")
    with pytest.raises(ModelError, match="allow_pickle"):
        Client(ModuleHandler, tmp_path)
    client = Client(ModuleHandler, tmp_path, allow_pickle=True)
    assert ask(client, [[1.0]]) == [[1.0]]
    assert "with pickle" in caplog.text


def test_it_says_how_many_bytes_came_how_fast(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        Client(ModuleHandler, script(nn.Linear(512, 1024), tmp_path / "net.pt"))
    [fields] = [vars(record)["fields"] for record in caplog.records if record.message == "weights are loaded"]
    assert fields["bytes"] == (tmp_path / "net.pt").stat().st_size
    assert fields["gb_per_s"] >= 0


def test_several_files_need_a_name(tmp_path: Path) -> None:
    for name in ("a.pt2", "b.pt2"):
        export(tmp_path / name, 2, dynamic=True)
    with pytest.raises(ModelError, match=r"a\.pt2, b\.pt2"):
        Client(ModuleHandler, tmp_path)
    assert ask(Client(ModuleHandler, tmp_path, file="b.pt2"), [[1.0, 1, 1]]) == [[6.0]]


class Payload:
    """Unpickled, it leaves a file behind: what an attacker would do with more."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def with_member(path: Path, name: str, data: bytes) -> None:
    """Rewrite the archive with one member's content exchanged."""
    with zipfile.ZipFile(path) as old:
        members = {info.filename: old.read(info) for info in old.infolist()}
    assert name in members, sorted(members)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for member, content in (members | {name: data}).items():
            new.writestr(member, content)


def test_an_exported_file_with_a_pickle_bomb_in_its_sample_inputs_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    export(tmp_path / "model.pt2", 2, dynamic=True)
    buffer = io.BytesIO()
    torch.save((Payload(mark),), buffer)
    with_member(tmp_path / "model.pt2", "model/data/sample_inputs/model.pt", buffer.getvalue())
    with pytest.raises(ModelError, match="pickled"):
        Client(ModuleHandler, tmp_path)
    assert not mark.exists()


def test_an_exported_file_with_pickled_constants_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    export(tmp_path / "model.pt2", 2, dynamic=True)
    config = {"config": {"c": {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True}}}
    name = "model/data/constants/model_constants_config.json"
    with_member(tmp_path / "model.pt2", name, json.dumps(config).encode())
    with zipfile.ZipFile(tmp_path / "model.pt2", "a") as archive:
        archive.writestr("model/data/constants/opaque_obj_0", pickle.dumps(Payload(mark)))
    with pytest.raises(ModelError, match="opaque_obj_0"):
        Client(ModuleHandler, tmp_path)
    assert not mark.exists()


# What an exported program says of its input.


def linear(path: Path, most: int | None = 64) -> Path:
    shapes = ({0: torch.export.Dim("rows", min=1, max=most)},) if most else None
    torch.export.save(torch.export.export(nn.Linear(10, 2), (torch.ones(2, 10),), dynamic_shapes=shapes), path)
    return path.parent


@pytest.mark.parametrize("handler", [ModuleHandler, TabularHandler])
def test_rows_that_do_not_fit_an_exported_program_are_400_with_what_does(tmp_path: Path, handler: Any) -> None:
    client = Client(handler, linear(tmp_path / "model.pt2"))
    assert client.handler.takes == "float32 [rows, 10]"
    assert len(ask(client, [1] * 10)) == 2, "integers, too"
    assert len(ask(client, [[1.5] * 10] * 3)) == 3
    for body, said in (
        ([1, 2, 3, 4], "expected 10 values a row, got 4"),
        ([[1.0] * 4] * 2, "expected 10 values a row, got 4"),
        ([[1.0] * 10] * 65, "expected 1 to 64 rows, got 65"),
    ):
        with pytest.raises(BadRequest, match=said):
            ask(client, body)


def test_a_program_for_so_many_rows_says_so(tmp_path: Path) -> None:
    client = Client(ModuleHandler, linear(tmp_path / "model.pt2", None))
    assert client.handler.takes == "float32 [2, 10]"
    assert len(ask(client, [[1.0] * 10] * 2)) == 2
    with pytest.raises(BadRequest, match="expected 2 rows, got 1"):
        ask(client, [[1.0] * 10])
    with pytest.raises(BadRequest, match=r"expected float32 \[2, 10\], got \[2, 1, 10\]"):
        ask(client, [[[1.0] * 10]] * 2)


@given(st.lists(st.integers(0, 12), min_size=0, max_size=3))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_arrays_of_any_shape_are_answered_or_refused_never_an_error_of_the_server(
    exported: Client, shape: list[int]
) -> None:
    [outcome] = exported.batch([Request(json.dumps(torch.ones(shape).tolist()).encode(), "application/json")])
    assert not isinstance(outcome, ServingError) or outcome.status == 400, outcome


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Client:
    return Client(ModuleHandler, linear(tmp_path_factory.mktemp("linear") / "model.pt2"))


# A module of one's own.


class Mine(ModuleHandler):
    def build_module(self, model_dir: Path) -> nn.Module:
        return nn.Linear(2, 1)


class MyPictures(ImageClassificationHandler):
    def build_module(self, model_dir: Path) -> nn.Module:
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "weights.bin"])
def test_a_state_dict_is_loaded_into_the_module_that_build_module_gives(tmp_path: Path, name: str) -> None:
    state = {"weight": torch.tensor([[2.0, 3.0]]), "bias": torch.tensor([1.0])}
    if name.endswith("safetensors"):
        pytest.importorskip("safetensors.torch").save_file(state, tmp_path / name)
    else:
        torch.save(state, tmp_path / name)
    client = Client(Mine, tmp_path)
    assert ask(client, [1.0, 1.0]) == [6.0]
    assert not client.handler.module.training  # type: ignore[attr-defined]


def test_one_that_does_not_fit_is_told_with_its_names(tmp_path: Path) -> None:
    torch.save({"wait": torch.zeros(1)}, tmp_path / "model.pt")
    with pytest.raises(ModelError, match=r'model.pt does not fit Linear: .*Missing key.*"weight".*Unexpected.*"wait"'):
        Client(Mine, tmp_path)
    (tmp_path / "model.pt").unlink()
    with pytest.raises(ModelError, match=r"expected one \*.safetensors, \*.pt, \*.pth or \*.bin file, found none"):
        Client(Mine, tmp_path)


def test_pictures_have_it_too(tmp_path: Path) -> None:
    torch.save(MyPictures().build_module(tmp_path).state_dict(), tmp_path / "model.pt")
    assert Client(MyPictures, tmp_path, size=4).handler.module[2].out_features == 4  # type: ignore[attr-defined]
