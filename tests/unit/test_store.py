"""Names of models: each that is listed finds one, no two find the same, and what is called so to the letter wins."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import BadRequest, ModelNotFound
from serving.model.names import ARCHIVES
from serving.supervisor.store.store import Store


def put(root: Path, *names: str) -> Store:
    """Files, or with a slash at the end folders of a model."""
    for name in names:
        if name.endswith("/"):
            (root / name).mkdir(parents=True)
            (root / name / "serving.toml").touch()
        else:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
    return Store(root)


def found(store: Store, target: str) -> str:
    """What a target finds, relative to the store."""
    return str(store.resolve(target)[1].relative_to(store.root))


@pytest.mark.parametrize("suffix", ARCHIVES)
def test_an_archive_is_found_with_its_suffix_or_without_and_is_one_model(tmp_path: Path, suffix: str) -> None:
    store = put(tmp_path, f"x{suffix}")
    assert store.names() == ["x"]
    for target in ("x", f"x{suffix}"):
        assert store.resolve(target) == ("x", tmp_path / f"x{suffix}")


@pytest.mark.parametrize(("first", "second"), list(itertools.product(ARCHIVES, ARCHIVES)))
def test_a_suffix_twice_is_no_name_of_a_model_that_has_it_once(tmp_path: Path, first: str, second: str) -> None:
    store = put(tmp_path, f"x{first}")
    with pytest.raises(ModelNotFound):
        store.resolve(f"x{first}{second}")
    assert put(tmp_path, f"x{first}{second}").resolve(f"x{first}{second}")[0] in (f"x{first}", f"x{first}{second}")
    assert found(store, f"x{first}{second}") == f"x{first}{second}"
    assert found(store, f"x{first}") == f"x{first}"


@pytest.mark.parametrize(("one", "other"), list(itertools.permutations(ARCHIVES, 2)))
def test_of_two_archives_side_by_side_each_is_found_by_its_whole_name(tmp_path: Path, one: str, other: str) -> None:
    store = put(tmp_path, f"x{one}", f"x{other}")
    assert [found(store, f"x{suffix}") for suffix in (one, other)] == [f"x{one}", f"x{other}"]
    assert len(store.names()) == 2
    assert "x" in store.names()


@pytest.mark.parametrize("suffix", ARCHIVES)
def test_a_folder_whose_name_ends_like_an_archives_is_found(tmp_path: Path, suffix: str) -> None:
    store = put(tmp_path, f"y{suffix}/")
    assert store.names() == [f"y{suffix}"]
    assert store.resolve(f"y{suffix}") == (f"y{suffix}", tmp_path / f"y{suffix}")
    with pytest.raises(ModelNotFound):
        store.resolve("y")


def test_a_folder_is_found_by_the_name_of_the_archive_it_came_from(tmp_path: Path) -> None:
    store = put(tmp_path, "x/", "team/y.mar")
    assert store.resolve("x.tar.gz") == ("x", tmp_path / "x")
    assert store.resolve("team/y.tar.gz") == ("team/y", tmp_path / "team" / "y.mar")


def test_what_is_inside_of_a_model_is_no_model(tmp_path: Path) -> None:
    store = put(tmp_path, "a/", "a/code/", "a/inner.tar.gz", "team/b/")
    for target in ("a/code", "a/inner", "a/inner.tar.gz", "a/nothing"):
        with pytest.raises(BadRequest, match="is a part of model a, and no model") as refusal:
            store.resolve(target)
        assert str(tmp_path) not in refusal.value.message
        assert refusal.value.status == 400
    assert store.resolve("team/b")[0] == "team/b"


def test_what_macos_and_others_hide_is_neither_listed_nor_a_model(tmp_path: Path) -> None:
    store = put(tmp_path, "a.tar.gz", "._a.tar.gz", "__MACOSX/a/", ".b.zip", "team/.DS_Store", "team/c/")
    (tmp_path / "resource" / "._net.pt").parent.mkdir()
    (tmp_path / "resource" / "._net.pt").touch()
    assert store.names() == ["a", "team/c"]
    for target in ("team", "resource"):
        with pytest.raises(ModelNotFound):
            store.resolve(target)


NAMES = ["x", *("x" + suffix for suffix in ARCHIVES), "x.mar.zip", "x.tar.gz.tar.gz", "x.zip.tgz"]


@given(st.sets(st.sampled_from([*NAMES[1:], *(name + "/" for name in NAMES)]), max_size=6))
def test_names_and_models_are_one_to_one(tmp_path_factory: pytest.TempPathFactory, entries: set[str]) -> None:
    root = tmp_path_factory.mktemp("store")
    chosen = [name for name in entries if name.rstrip("/") == name or name.rstrip("/") not in entries]
    store = put(root, *chosen)
    listed = store.names()
    assert len(listed) == len(set(listed)) == len(chosen)
    assert [store.resolve(name)[0] for name in listed] == listed
    assert len({store.resolve(name)[1] for name in listed}) == len(chosen)
    for target in NAMES:
        try:
            name, path = store.resolve(target)
        except ModelNotFound:
            continue
        assert name in listed
        assert store.resolve(name)[1] == path
        if (root / target).exists():
            assert path == root / target
    shutil.rmtree(root)
