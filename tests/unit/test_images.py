"""What both Dockerfiles promise, read off their text; ``make image-test`` builds them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from serving.desk.init import DOCKERFILE

ROOT = Path(__file__).parent.parent.parent
CUSTOM = ROOT / "examples" / "custom-image"
OURS = {"cpu": (ROOT / "Dockerfile.cpu").read_text(), "gpu": (ROOT / "Dockerfile.gpu").read_text()}
CAPABILITIES = {"multi-models", "accept-bind-to-port", "bidirectional-streaming"}

both = pytest.mark.parametrize("text", OURS.values(), ids=OURS)


def instructions(text: str) -> list[tuple[str, str]]:
    """(instruction, arguments), comments left out and continued lines joined."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\s*\\\n\s*", " ", lines).splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined if line.strip())]


def last_stage(text: str) -> list[tuple[str, str]]:
    found = instructions(text)
    start = max(at for at, (word, _) in enumerate(found) if word == "FROM")
    return found[start:]


def arguments(text: str, name: str) -> list[str]:
    return [rest for word, rest in last_stage(text) if word == name]


@both
def test_the_server_is_pid_1_and_gets_the_words_of_the_platform(text: str) -> None:
    assert [json.loads(rest) for rest in arguments(text, "ENTRYPOINT")] == [["serving"]]
    assert [json.loads(rest) for rest in arguments(text, "CMD")] == [["serve"]]


@both
def test_the_platform_learns_what_the_server_can(text: str) -> None:
    (labels,) = arguments(text, "LABEL")
    named = dict(pair.split("=") for pair in labels.split())
    assert named == {f"com.amazonaws.sagemaker.capabilities.{name}": "true" for name in CAPABILITIES}


@both
def test_the_health_check_needs_no_program_but_ours(text: str) -> None:
    (check,) = arguments(text, "HEALTHCHECK")
    assert json.loads(check.partition("CMD ")[2]) == ["serving", "ping"]
    assert "curl" not in text


@both
def test_no_user_is_taken_for_granted(text: str) -> None:
    words = {word for word, _ in instructions(text)}
    assert not words & {"USER", "VOLUME"}
    assert "HOME" not in text


@both
def test_what_builds_is_not_in_the_image_and_the_base_is_an_argument(text: str) -> None:
    stages = [rest for word, rest in instructions(text) if word == "FROM"]
    assert stages == ["${BASE} AS base", "base AS builder", "base"]
    assert not arguments(text, "RUN")  # nothing is installed in the last stage, only copied
    assert all("--from=builder" in rest for rest in arguments(text, "COPY"))
    declared = {rest.partition("=")[0] for word, rest in instructions(text) if word == "ARG"}
    assert declared >= {"BASE", "TORCH", "TORCH_INDEX", "EXTRAS"}
    assert re.search(r"^ARG TORCH_INDEX=$", text, re.MULTILINE)  # whose index is the user's own decision


def test_a_base_with_torch_keeps_it() -> None:
    text = OURS["gpu"]
    assert "--system-site-packages" in text
    installs = [rest for word, rest in instructions(text) if word == "RUN" and "pip install" in rest]
    assert 'packages.version("torch")\' || pip install' in installs[0]
    assert "-c /build/torch.txt" in installs[1]


def test_what_is_not_the_servers_stays_out_of_the_build() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    kept = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert kept == {"pyproject.toml", "README.md", "LICENSE", "serving", "handlers", "triton_python_backend_utils"}
    assert all((ROOT / name).exists() for name in kept)
    assert "**/__pycache__" in lines


@pytest.mark.parametrize("text", [(CUSTOM / "Dockerfile").read_text(), DOCKERFILE], ids=["example", "init"])
def test_an_image_of_ones_own_begins_with_the_servers_and_leaves_its_entry_point_and_user(text: str) -> None:
    found = instructions(text)
    assert found[:2] == [("ARG", "SERVING=serving:cpu"), ("FROM", "${SERVING}")]
    assert not {word for word, _ in found} & {"ENTRYPOINT", "CMD", "USER", "LABEL", "HEALTHCHECK"}


def test_the_page_shows_the_example_and_every_build_argument() -> None:
    page = (ROOT / "docs" / "images.md").read_text()
    shown = page.partition("```dockerfile\n")[2].partition("```")[0]
    assert instructions(shown) == instructions((CUSTOM / "Dockerfile").read_text())
    for text in OURS.values():
        for name in {rest.partition("=")[0] for word, rest in instructions(text) if word == "ARG"}:
            assert f"| `{name}` |" in page


def test_the_example_copies_what_is_there_and_says_where_its_code_is() -> None:
    found = instructions((CUSTOM / "Dockerfile").read_text())
    copied = dict(rest.split() for word, rest in found if word == "COPY")
    assert all((CUSTOM / source).exists() for source in copied)
    assert ("ENV", f"SERVING_CODE_DIR={copied['code']}") in found
