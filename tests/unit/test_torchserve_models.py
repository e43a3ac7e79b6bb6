"""BaseHandler and the built-in handlers: each way to load a model, each handler's answers.

The archives were written here as TorchServe's documentation shows them; ``tests/compat`` has TorchServe itself.
"""

from __future__ import annotations

import base64
import io
import json
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from serving.adapters.torchserve.handler import TorchServeHandler
from serving.adapters.torchserve.images import center_crop, classified, resize, to_tensor
from serving.adapters.torchserve.texts import basic_english, expand_contractions, ngrams_iterator
from serving.errors import ModelError, ServingError
from serving.handler import BatchPolicy
from serving.request import Request, Response
from serving.testing import Client
from tests.mar import write_archive

Make = Callable[..., Client]

LISTS = """
    from ts.torch_handler.base_handler import BaseHandler
    class Lists(BaseHandler):
        def preprocess(self, data):
            return super().preprocess([row["body"] for row in data])
"""
EAGER = (
    "import torch\nclass Net(torch.nn.Linear):\n    def __init__(self):\n        super().__init__(2, 2, bias=False)\n"
)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def client(
        script: str | None = None, max_size: int = 1, options: dict[str, Any] | None = None, **told: Any
    ) -> Client:
        handler = TorchServeHandler()
        handler.policy = BatchPolicy(max_size=max_size)
        return Client(handler, write_archive(tmp_path, script, **told), **(options or {}))

    return client


def double() -> torch.nn.Module:
    net = torch.nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        net.weight.copy_(2 * torch.eye(2))
    return net


def script(module: torch.nn.Module, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(module), str(path))  # type: ignore[no-untyped-call]


def ask(client: Client, body: object) -> Any:
    return json.loads(client.invoke(json.dumps(body).encode()).body)


# BaseHandler


def test_a_state_dict_with_its_model_file(make: Make, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(EAGER)
    torch.save(double().state_dict(), tmp_path / "net.pt")
    client = make(LISTS, model={"modelFile": "net.py", "serializedFile": "net.pt"})
    assert ask(client, [1.0, 2.0]) == [2, 4]


def test_a_model_file_alone(make: Make, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(EAGER)
    assert len(ask(make(LISTS, model={"modelFile": "net.py"}), [1.0, 2.0])) == 2


def test_torchscript(make: Make, tmp_path: Path) -> None:
    script(double(), tmp_path / "net.pt")
    client = make(LISTS, max_size=2, model={"serializedFile": "net.pt"})
    requests = [Request(body, "application/json") for body in (b"[1.0, 2.0]", b"[3.0, 4.0]")]
    assert [json.loads(one.body) for one in client.batch(requests) if isinstance(one, Response)] == [[2, 4], [6, 8]]


def test_an_exported_program(make: Make, tmp_path: Path) -> None:
    program = torch.export.export(double(), (torch.zeros(1, 2),))
    torch.export.save(program, tmp_path / "net.pt2")
    assert ask(make(LISTS, model={"serializedFile": "net.pt2"}), [1.0, 2.0]) == [2, 4]


@pytest.mark.parametrize("told", ["aot_eager", "{backend: aot_eager}", "{compile: {enable: true, backend: aot_eager}}"])
def test_compilation_by_the_configuration(make: Make, tmp_path: Path, told: str) -> None:
    (tmp_path / "net.py").write_text(EAGER)
    code = (
        LISTS
        + """
        def handle(self, data, context):
            return [type(self.model).__name__]
"""
    )
    client = make(code, config=f"pt2: {told}", model={"modelFile": "net.py"})
    assert client.invoke(b"[1]").body == b"OptimizedModule"


@pytest.mark.parametrize("told", ["nothing", "{compile: {enable: false}}", "{export: {aot_compile: true}}"])
def test_no_compilation_where_none_is_asked_for(told: str) -> None:
    import yaml

    from serving.adapters.torchserve import names
    from serving.adapters.torchserve.loading import compile_options

    names.install()
    assert compile_options(yaml.safe_load(told)) is None


class Pickled:
    pass


def test_files_that_cannot_be_loaded_are_errors(make: Make, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(EAGER)
    (tmp_path / "two.py").write_text(EAGER + "class Other:\n    pass\n")
    torch.save(double().state_dict(), tmp_path / "net.pt")
    torch.save(Pickled(), tmp_path / "evil.pt")
    (tmp_path / "net.so").touch()
    cases = [
        ({}, "neither serializedFile nor modelFile"),
        ({"serializedFile": "net.pt"}, "net.pt is no TorchScript file; for a state dict the manifest must name"),
        ({"serializedFile": "net.so"}, r"load \.pt, \.pth and \.pt2 alone"),
        ({"serializedFile": "evil.pt", "modelFile": "net.py"}, "pickled objects that are no weights: `allow_pickle"),
        ({"modelFile": "two.py"}, "must define one class; its classes: Net, Other"),
    ]
    for model, told in cases:
        with pytest.raises(ModelError, match=told):
            make(LISTS, model=model)


def test_pickled_state_by_opt_in(make: Make, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(EAGER)
    state = double().state_dict()
    state["_odd"] = Pickled()  # type: ignore[assignment]
    torch.save(state, tmp_path / "net.pt")
    model = {"modelFile": "net.py", "serializedFile": "net.pt"}
    with pytest.raises(RuntimeError, match="_odd"):
        make(LISTS, model=model, options={"allow_pickle": True})


def test_explanations_and_descriptions_that_are_not_there_are_501(make: Make, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(EAGER)
    code = (
        LISTS
        + """
        def handle(self, data, context):
            return super().handle([{"body": [1.0, 2.0]}] * len(data), context)
"""
    )
    client = make(code, model={"modelFile": "net.py"})
    for name, told in (("explain", "no get_insights"), ("describe", "no describe_handle")):
        with pytest.raises(ServingError, match=told) as caught:
            client.invoke(b"1", custom_attributes=f"{name}=true")
        assert caught.value.status == 501


def test_explanations_come_by_custom_attributes_and_never_to_a_batch_mate(make: Make, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(EAGER)
    code = (
        LISTS
        + """
        def get_insights(self, tensor, inputs, target):
            return [f"why {inputs} {target}"] * len(tensor)
        def describe_handle(self):
            return "a net"
"""
    )
    client = make(code, max_size=4, model={"modelFile": "net.py", "envelope": "kserve"})
    body = {"instances": [{"body": [1.0, 2.0]}]}
    answer = client.invoke(json.dumps(body).encode(), custom_attributes="explain=True")
    assert json.loads(answer.body) == {"explanations": ["why [1.0, 2.0] 0"]}
    client = make(code, max_size=4, model={"modelFile": "net.py"})
    told = ("", "explain=True", "describe=true", "explain=false")
    requests = [Request(b"[1.0, 2.0]", "application/json", sagemaker={"custom-attributes": one}) for one in told]
    first, why, what, last = [bytes(one.body) for one in client.batch(requests) if isinstance(one, Response)]
    assert (why, what) == (b"why [1.0, 2.0] 0", b"a net")
    assert first == last


def test_handlers_may_load_the_model_themselves_in_each_of_the_known_places(make: Make, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(EAGER)
    (tmp_path / "net.pt").touch()
    own = """
        def postprocess(self, data):
            return [type(self.model).__name__]
        def _load_pickled_model(self, model_dir, model_file, model_pt_path):
            import torch
            return torch.nn.Identity()
        def _load_torchscript_model(self, model_pt_path):
            import torch
            return torch.nn.Flatten()
"""
    client = make(LISTS + own, model={"modelFile": "net.py", "serializedFile": "net.pt"})
    assert client.invoke(b"[1]").body == b"Identity"
    assert make(LISTS + own, model={"serializedFile": "net.pt"}).invoke(b"[1]").body == b"Flatten"


# Built-in handlers, by name


class Means(torch.nn.Module):
    """Six classes; the red channel's mean speaks for the first one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        means = x.mean(dim=(1, 2, 3))
        return torch.stack([means * k for k in range(6)], dim=1)


class Segments(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"out": x}


class Boxes(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        box = torch.tensor([[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]])
        found = {"boxes": box, "labels": torch.tensor([1, 2]), "scores": torch.tensor([0.75, 0.25])}
        return [found for _ in range(x.shape[0])]


class Bag(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Identity()

    def forward(self, numbers: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        return torch.stack([(numbers == 1).sum(), (numbers == 2).sum()]).float().reshape(1, 2)


def picture(color: str = "white", size: tuple[int, int] = (300, 260), mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, color).convert(mode).save(out, "png")
    return out.getvalue()


def test_image_classifier(make: Make, tmp_path: Path) -> None:
    script(Means(), tmp_path / "net.pt")
    (tmp_path / "index_to_name.json").write_text(json.dumps({str(k): ["n0", f"class {k}"] for k in range(6)}))
    client = make(max_size=2, model={"handler": "image_classifier", "serializedFile": "net.pt"})
    one, other = client.batch([Request(picture("white"), "image/png"), Request(picture("black"), "image/png")])
    assert isinstance(one, Response)
    assert isinstance(other, Response)
    assert list(json.loads(one.body)) == ["class 5", "class 4", "class 3", "class 2", "class 1"]
    assert list(json.loads(other.body)) == ["class 0", "class 1", "class 2", "class 3", "class 4"]


def test_images_as_text_lists_and_form_fields(make: Make, tmp_path: Path) -> None:
    script(Means(), tmp_path / "net.pt")
    client = make(model={"handler": "image_classifier", "serializedFile": "net.pt"})
    expected = client.invoke(picture(), "image/png").body
    assert client.invoke(base64.b64encode(picture()), "text/plain").body == expected
    form = b'--x\r\nContent-Disposition: form-data; name="data"; filename="a.png"\r\n\r\n' + picture() + b"\r\n--x--"
    assert client.invoke(form, "multipart/form-data; boundary=x").body == expected
    assert len(ask(client, torch.ones(3, 4, 4).tolist())) == 5
    with pytest.raises(ServingError) as caught:
        client.invoke(b"no image", "image/png")
    assert caught.value.status == 503


def test_image_segmenter(make: Make, tmp_path: Path) -> None:
    script(Segments(), tmp_path / "net.pt")
    found = json.loads(make(model={"handler": "image_segmenter", "serializedFile": "net.pt"}).invoke(picture()).body)
    assert torch.tensor(found).shape == (224, 224, 2)
    assert found[0][0][0] == 2.0


def test_object_detector(make: Make, tmp_path: Path) -> None:
    script(Boxes(), tmp_path / "net.pt")
    (tmp_path / "index_to_name.json").write_text('{"1": "cat", "2": "dog"}')
    client = make(model={"handler": "object_detector", "serializedFile": "net.pt"})
    assert json.loads(client.invoke(picture(), "image/png").body) == [{"cat": [0, 1, 2, 3], "score": 0.75}]


def test_text_classifier(make: Make, tmp_path: Path) -> None:
    script(Bag(), tmp_path / "net.pt")
    torch.save({"<unk>": 0, "good": 1, "not good": 2}, tmp_path / "source_vocab.pt")
    client = make(model={"handler": "text_classifier", "serializedFile": "net.pt"})
    answer = json.loads(client.invoke(b"<b>Isn't</b> G\xc3\xb6od!", "text/plain").body)
    assert answer == {"0": 0.5, "1": 0.5}
    with pytest.raises(ServingError, match="no text") as caught:
        ask(client, [1])
    assert caught.value.status == 400


def test_a_vocabulary_must_be_there(make: Make, tmp_path: Path) -> None:
    script(Bag(), tmp_path / "net.pt")
    with pytest.raises(ModelError, match=r"source_vocab\.pt is missing"):
        make(model={"handler": "text_classifier", "serializedFile": "net.pt"})


class Attribution:
    """In place of captum's: what it is called with, as the attributions."""

    def __init__(self, model: torch.nn.Module, layer: torch.nn.Module | None = None) -> None:
        self.layer = layer

    def attribute(self, data: torch.Tensor, *rest: torch.Tensor, target: int, **options: Any) -> torch.Tensor:
        assert all(one.shape == data.shape for one in rest)
        return data.new_full((len(data), 2), target, dtype=torch.float32)


def explain(client: Client, body: bytes, kind: str) -> Any:
    return json.loads(client.invoke(body, kind, custom_attributes="explain=True").body)


def test_built_in_handlers_explain_with_captum(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(Means(), tmp_path / "net.pt")
    client = make(model={"handler": "image_classifier", "serializedFile": "net.pt"})
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "captum", None)
        with pytest.raises(ServingError, match="captum, which is not installed") as caught:
            explain(client, picture(), "image/png")
        assert caught.value.status == 501
    attr = types.ModuleType("captum.attr")
    vars(attr).update(IntegratedGradients=Attribution, LayerIntegratedGradients=Attribution)
    captum = types.ModuleType("captum")
    vars(captum).update(attr=attr)
    monkeypatch.setitem(sys.modules, "captum", captum)
    monkeypatch.setitem(sys.modules, "captum.attr", attr)
    assert explain(client, picture(), "image/png") == [0, 0]
    script(Bag(), tmp_path / "net.pt")
    torch.save({"<unk>": 0, "good": 1}, tmp_path / "source_vocab.pt")
    client = make(model={"handler": "text_classifier", "serializedFile": "net.pt"})
    found = explain(client, b"good film", "text/plain")
    assert found["words"] == ["good", "film"]
    assert torch.tensor(found["importances"]).shape == (3, 2)


# Images and texts


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "1", "I"])
def test_each_kind_of_image_becomes_a_tensor(mode: str) -> None:
    tensor = to_tensor(Image.new("RGB", (3, 2), "white").convert(mode))
    assert tensor.shape == ({"RGB": 3, "RGBA": 4}.get(mode, 1), 2, 3)
    assert tensor.max() == (255 if mode == "I" else 1)


def test_sizes() -> None:
    assert resize(Image.new("RGB", (400, 300)), 256).size == (341, 256)
    assert resize(Image.new("RGB", (300, 400)), 256).size == (256, 341)
    assert center_crop(Image.new("RGB", (10, 300)), 224).size == (224, 224)
    assert classified(Image.new("RGB", (10, 20))).shape == (3, 224, 224)


def test_english() -> None:
    assert basic_english('You can\'t, "really"; <br />go!') == ["you", "can", "'", "t", ",", "really", "go", "!"]
    assert list(ngrams_iterator(["a", "b", "c"], 2)) == ["a", "b", "c", "a b", "b c"]
    expanded = "i am sure he will not, we have; dogs cannot, they would not have, because it is"
    told = "i'm sure he won't, we've; dog's can't, they wouldn't've, 'cause it's"
    assert expand_contractions(told.replace("wouldn't've", "wouldn't have")) == expanded
