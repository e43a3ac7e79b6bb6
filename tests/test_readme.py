"""The README shows what is there: the demo's handler to the letter, every setting, every error code."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving import errors
from serving.config.settings import SETTINGS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_handler_shown_is_the_demos_own() -> None:
    assert (ROOT / "examples" / "digits" / "code" / "digits.py").read_text().strip() in README


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_setting_stands_in_the_table_with_its_default_and_its_aliases(setting: object) -> None:
    row = next(line for line in README.splitlines() if line.startswith(f"| `{setting.variable}`"))  # type: ignore[attr-defined]
    assert setting.describe(setting.default) in row  # type: ignore[attr-defined]
    for alias in setting.aliases:  # type: ignore[attr-defined]
        assert f"`{alias.variable}`" in row


def test_every_error_code_that_a_client_can_see_is_listed() -> None:
    def codes(kind: type[errors.ServingError]) -> set[str]:
        return {kind.code}.union(*(codes(one) for one in kind.__subclasses__()))

    for code in codes(errors.ServingError) - {"internal", "unavailable"}:
        assert f"`{code}`" in README


def test_every_link_leads_somewhere() -> None:
    import re

    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
