"""README and docs/ show what is there: every setting, error code and public name, and no link that leads nowhere.

``tests/e2e/test_pages.py`` runs the commands and the Python in them.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import serving
from serving import errors
from serving.config.settings import SETTINGS
from serving.model import modelsettings
from tests.pages import DOCS, PAGES, README, ROOT, Block, anchors, blocks, commands, links, name_of, rows, spans

pages = pytest.mark.parametrize("page", PAGES, ids=name_of)


def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HOOKS = hooks()


def test_the_readme_is_read_in_a_few_minutes() -> None:
    assert len(README.read_text().splitlines()) <= 180


def test_the_handler_shown_is_the_demos_own() -> None:
    shown = (DOCS / "handlers.md").read_text()
    assert (ROOT / "examples" / "digits" / "code" / "digits.py").read_text().strip() in shown


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_setting_stands_in_the_table_with_its_default_and_its_aliases(setting: Any) -> None:
    [row] = rows(DOCS / "settings.md", setting.variable)
    assert setting.describe(setting.default) in row
    for alias in setting.aliases:
        assert f"`{alias.variable}`" in row


@pytest.mark.parametrize(("name", "word"), [("settings.md", "SERVING_PORT"), ("metrics.md", "serving_sessions_lost_total")])
def test_a_table_is_the_one_that_is_made_of_the_source(name: str, word: str) -> None:
    page = (DOCS / name).read_text()
    assert HOOKS.with_table(name, page) == page, "python docs/hooks.py writes it"
    assert HOOKS.with_table(name, page.replace(f"`{word}`", "`word`", 1)) == page


def test_every_key_of_serving_toml_is_listed() -> None:
    listed = set(spans(DOCS / "model-folder.md"))
    for key in modelsettings.Settings.__struct_fields__:
        assert listed & {key, f"[{key}]"}, key


def test_every_error_code_that_a_client_can_see_is_listed() -> None:
    def codes(kind: type[errors.ServingError]) -> set[tuple[int, str]]:
        return {(kind.status, kind.code)}.union(*(codes(one) for one in kind.__subclasses__()))

    table = [line for line in (DOCS / "http-api.md").read_text().splitlines() if re.match(r"\| \d{3}", line)]
    for status, code in codes(errors.ServingError):
        if code not in ("internal", "unavailable"):
            assert any(f"`{code}`" in row and str(status) in row.split("|")[1] for row in table), (status, code)


def test_every_public_name_is_in_the_reference() -> None:
    listed = re.findall(r"^::: ([\w.]+)$", (DOCS / "reference.md").read_text(), re.MULTILINE)
    assert set(listed) >= {f"serving.{name}" for name in serving.__all__}
    shown = {handler.replace(":", ".") for page in PAGES for handler in spans(page) if handler.startswith("handlers.")}
    assert set(listed) >= {name for name in shown if name.endswith("Handler")}
    for name in listed:
        module, _, member = name.rpartition(".")
        assert member in vars(importlib.import_module(module)) or importlib.import_module(name)


@pages
def test_every_link_leads_to_a_file_and_every_anchor_to_a_heading(page: Path) -> None:
    for target in links(page):
        path, _, anchor = target.partition("#")
        found = page.parent / path if path else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


def in_nav(entries: Any) -> list[str]:
    if isinstance(entries, str):
        return [entries]
    parts = entries.values() if isinstance(entries, dict) else entries
    return [name for part in parts for name in in_nav(part)]


def test_every_page_is_in_the_navigation_once() -> None:
    nav = in_nav(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    there = [str(page.relative_to(DOCS)) for page in PAGES if page != README]
    assert sorted(nav) == sorted([*there, *HOOKS.PAGES])
    assert all((ROOT / path).exists() for path in (HOOKS.PAGES | HOOKS.PICTURES).values())


@pytest.mark.parametrize(
    ("page", "source", "written", "read"),
    [
        ("index.md", "README.md", "[a](docs/gpu.md#b)", "[a](gpu.md#b)"),
        ("gpu.md", "docs/gpu.md", "[a](#b) [c](images.md)", "[a](#b) [c](images.md)"),
        ("gpu.md", "docs/gpu.md", "[a](../benchmarks/RESULTS.md#b)", "[a](results.md#b)"),
        ("migrating/djl.md", "docs/migrating/djl.md", "[a](../../README.md)", "[a](../index.md)"),
        ("results.md", "benchmarks/RESULTS.md", "![a](latency.png)", "![a](latency.png)"),
        ("gpu.md", "docs/gpu.md", "[`examples/x`](../examples/x/code)", "`examples/x`"),
        ("gpu.md", "docs/gpu.md", "[a](../examples/x.py)", "a (`examples/x.py`)"),
        ("gpu.md", "docs/gpu.md", "[a](https://semver.org)", "[a](https://semver.org)"),
    ],
)
def test_links_are_those_of_the_site(page: str, source: str, written: str, read: str) -> None:
    assert HOOKS.linked(page, source, written) == read


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_every_serving_toml_shown_is_one(block: Block) -> None:
    assert list(modelsettings.problems_of(tomllib.loads(block.text))) == []


@pytest.mark.parametrize("block", blocks("json"), ids=str)
def test_all_json_shown_is_json(block: Block) -> None:
    json.loads(block.text)


def test_no_block_is_of_a_kind_that_nothing_looks_at() -> None:
    looked_at = {"console", "python", "toml", "json", "dockerfile"}
    everything = re.findall(r"^ *```(\w+)$", "\n".join(page.read_text() for page in PAGES), re.MULTILINE)
    assert set(everything) == looked_at


def shown_commands(page: Path) -> list[str]:
    """In blocks and in the text."""
    of_blocks = [one.line for block in blocks("console") if block.page == page for one in commands(block.text)]
    return [*of_blocks, *spans(page)]


@pages
def test_the_targets_extras_and_files_of_every_command_are_there(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for line in shown_commands(page):
        match line.split():
            case ["make", target, *_]:
                assert target in targets, line
            case ["pip", "install", what] if "[" in what:
                assert set(what.strip("'").partition("[")[2].rstrip("]").split(",")) <= extras.keys(), line
            case ["python", path, *_] if "/" in path:
                assert (ROOT / path).exists(), line
            case ["pytest", path]:
                assert (ROOT / path).exists(), line


@pages
def test_every_command_of_serving_is_one(page: Path) -> None:
    from serving.cli import cli

    for line in shown_commands(page):
        if re.match("serving [a-z]", line):
            assert line.split()[1] in cli.commands, line


def test_every_docker_build_names_what_is_there() -> None:
    builds = [line for page in PAGES for line in shown_commands(page) if line.startswith("docker build ")]
    assert len(builds) >= 3
    for line in builds:
        words = line.split()
        *_, context = words
        file = ROOT / words[words.index("-f") + 1] if "-f" in words else ROOT / context / "Dockerfile"
        assert file.exists(), line
        declared = re.findall(r"^ARG (\w+)", file.read_text(), re.MULTILINE)
        assert {word.partition("=")[0] for word in words if re.match("[A-Z_]+=", word)} <= set(declared), line
