"""Conventions of other packages, and what the server says where one cannot be had."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.adapters import conventions
from serving.adapters.convention import Choice, Convention, Folder
from serving.config.config import Config, load
from serving.errors import ModelError, NoModel
from serving.model.folder import read_model
from serving.model.model import Settings
from serving.model.modelsettings import read_settings

CODE = """
from serving.adapters.convention import Choice, Convention, Folder

class Flow(Convention):
    name = "flow"
    title = "a model of Flow"
    handler = "flow_handler:FlowHandler"
    files = ("MLflow",)
    expected = ("MLflow",)

    def matches(self, folder):
        return (folder.root / "MLflow").is_file()

    def read(self, folder):
        return Choice(self.handler, {"flavour": (folder.root / "MLflow").read_text()}, replicas=2)

class Other:
    pass

class Half(Convention):
    name = "half"
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Path]:
    """A folder of packages that is on the path."""
    folder = tmp_path / "site"
    folder.mkdir()
    sys.path.insert(0, str(folder))
    conventions.installed.cache_clear()
    yield folder
    conventions.installed.cache_clear()
    sys.modules.pop("flow_of_a_package", None)


def install(site: Path, value: str) -> None:
    (site / "flow_of_a_package.py").write_text(CODE)
    info = site / "flow_of_a_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: flow-of-a-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[serving.conventions]\nflow = {value}\n")


def test_a_package_brings_a_convention_of_its_own(site: Path, tmp_path: Path) -> None:
    install(site, "flow_of_a_package:Flow")
    model = tmp_path / "outer" / "model"
    model.mkdir(parents=True)
    (model / "MLflow").write_text("pytorch")
    (model / "weights.pt").touch()
    found = read_model(tmp_path / "outer", "m", load({}, {}), 4)
    assert (found.handler, found.convention, found.replicas) == ("flow_handler:FlowHandler", "flow", 2)
    assert found.options == {"flavour": "pytorch"}
    assert found.path == str(model), "its file marks the folder, too"
    named = conventions.convention_named("flow")
    assert named is not None
    assert named.title == "a model of Flow"
    assert conventions.is_model(model)


def test_who_finds_no_model_hears_what_the_package_expects(site: Path, tmp_path: Path) -> None:
    install(site, "flow_of_a_package:Flow")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoModel, match=r"config\.pbtxt.*serving\.properties.*MLflow"):
        read_model(tmp_path / "empty", "m", load({}, {}), 4)


@pytest.mark.parametrize(
    "value", ["flow_of_a_package:Other", "flow_of_a_package:Half", "flow_of_a_package:Nobody", "not_there:Flow"]
)
def test_a_convention_that_cannot_be_had_is_named(site: Path, tmp_path: Path, value: str) -> None:
    install(site, value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=f"the convention flow = {value}"):
        read_model(tmp_path / "empty", "m", load({}, {}), 4)


def test_a_store_is_listed_whatever_becomes_of_a_package(site: Path, tmp_path: Path) -> None:
    install(site, "not_there:Flow")
    model, other = tmp_path / "weights", tmp_path / "folder"
    for folder in (model, other):
        folder.mkdir()
    (model / "model.pt").touch()
    assert conventions.is_model(model)
    assert not conventions.is_model(other)
    assert [conventions.version_of(folder) for folder in (model, other)] == ["1", "1"]


def test_a_folder_that_goes_meanwhile_has_a_version_all_the_same(tmp_path: Path) -> None:
    class Going(type(tmp_path)):  # type: ignore[misc]
        def is_dir(self) -> bool:
            return True

    assert conventions.version_of(Going(tmp_path / "gone")) == "1"


def test_what_is_plain_from_the_files_never_looks_through_all_packages(site: Path, tmp_path: Path) -> None:
    install(site, "not_there:Flow")
    for name in ("code/inference.py", "model.py", "MAR-INF/MANIFEST.json", "1/model.py"):
        folder = tmp_path / name.partition("/")[0] / "model"
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text('{"model": {"handler": "base_handler"}}' if name.startswith("MAR") else "")
        assert conventions.convention_of(Folder(folder, folder / "code", *settings(folder))) in conventions.OURS


def settings(folder: Path) -> tuple[Settings, Config]:
    return read_settings(folder), load({}, {})


def test_every_convention_of_ours_has_a_name_a_title_and_a_handler_of_its_own() -> None:
    ours: list[Convention] = [*conventions.OURS, conventions.WEIGHTS]
    for names in ([one.name for one in ours], [one.title for one in ours], [one.handler for one in ours]):
        assert len({*names, ""}) == len(ours) + 1
    assert Choice(ours[0].handler).options == {}
