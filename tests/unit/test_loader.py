"""What is said of a model that cannot be loaded: where, what was expected, and the nearest right thing."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.config import config
from serving.errors import ModelError
from serving.model.folder import read_model
from serving.usercode import origin
from serving.worker.loading.loader import create_handler, load, paths_of
from tests.broken import DEFINED, IMPORTED, LOADED, Broken, folder_of


def reason_of(folder: Path) -> str:
    """As a worker tells it."""
    try:
        model = read_model(folder, "model", config.load({}), 1)
        handler = create_handler(model)
        load(handler, model, "cpu")
        handler.warmup()
    except ModelError as exc:
        return origin.reason(exc)
    except Exception as exc:
        return origin.describe(exc)
    return ""


@pytest.mark.parametrize("broken", [pytest.param(one, id=name) for name, one in (IMPORTED | DEFINED | LOADED).items()])
def test_a_model_that_cannot_be_loaded_is_told_with_file_and_line(
    tmp_path: Path, broken: Broken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = reason_of(folder_of(tmp_path, broken))
    assert [words for words in broken.said if words not in said] == [], said
    assert "\n" not in said


def test_an_exception_whose_text_cannot_be_had_or_is_long_is_told_all_the_same() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert origin.describe(Mute()) == "Mute: "
    assert len(origin.describe(ValueError("x" * 10_000))) < 600


def test_what_user_code_raised_is_found_behind_what_we_made_of_it() -> None:
    def inner() -> None:
        raise ValueError("deep")

    try:
        try:
            inner()
        except ValueError as exc:
            raise ModelError("ours") from exc
    except ModelError as exc:
        assert origin.origin(exc).startswith("unit/test_loader.py:")
        assert origin.reason(exc).startswith("ours (unit/test_loader.py:")


def test_a_package_of_a_handler_is_named_by_its_file() -> None:
    assert origin.defined(paths_of) == "", "it is ours"
    assert origin.defined(reason_of).startswith("unit/test_loader.py:")


DECORATED = """import functools
from serving import Handler

def given(function):
    @functools.wraps(function)
    def inner(self, batch):
        return function(self, batch, 2)
    return inner

def any_of(function):
    @functools.wraps(function)
    def inner(*args, **more):
        return function(*args, **more)
    return inner

"""


@pytest.mark.parametrize(
    "body",
    [
        "    def predict(self, *args): pass\n",
        "    def predict(self, batch, more=1, **rest): pass\n",
        "    def predict(self, batch, /, *, more=1): pass\n",
        "    @staticmethod\n    def predict(batch): pass\n",
        "    @classmethod\n    def predict(cls, batch): pass\n",
        "    @given\n    def predict(self, batch, more): pass\n",
        "    @any_of\n    def predict(self): pass\n",
        "    predict = functools.partialmethod(lambda self, more, batch: batch, 1)\n",
        "    predict = dict\n",
        "    def __init__(self): self.predict = abs\n",
        "    def load(self, model_dir, device): self.predict = abs\n",
        "    @any_of\n    def load(self, model_dir, device): setattr(self, 'predict', abs)\n",
        "    async def converse(self, stream): pass\n",
        "    predict = abs\n    post_paths = ['/x']\n    websocket_paths = ()\n",
        "    predict = abs\n    @any_of\n    def __init__(self, more=2): pass\n",
        "    def predict(self, x): pass\n    def split(self, outputs, *n): pass\n    def decode(self, r, a=1): pass\n",
    ],
)
def test_what_can_be_called_is_served_however_it_is_written(tmp_path: Path, body: str) -> None:
    broken = Broken((), files={"code/digits.py": f"{DECORATED}class Digits(Handler):\n{body}"})
    assert reason_of(folder_of(tmp_path, broken)) == ""
