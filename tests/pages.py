"""README and the pages of docs/: their blocks of code, their commands, headings and links."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [README, *sorted(DOCS.rglob("*.md"))]

FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@dataclass(frozen=True)
class Block:
    """A fenced block: ``text`` without what it is indented by, ``number`` counts those of its page from 1."""

    page: Path
    number: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{name_of(self.page)}:{self.number}"


@dataclass(frozen=True)
class Command:
    """What stands behind ``$``, in one line, and the lines that it prints."""

    line: str
    output: str


def blocks(*languages: str) -> list[Block]:
    """All blocks in these languages, page by page."""
    found = []
    for page in PAGES:
        for number, match in enumerate(FENCE.finditer(page.read_text()), 1):
            if match["language"] in languages:
                found.append(Block(page, number, match["language"], textwrap.dedent(match["text"])))
    return found


def commands(text: str) -> list[Command]:
    """The commands of a ``console`` block in order; a line that ends with a backslash goes on in the next one."""
    found: list[Command] = []
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line.startswith("$ "):
            found.append(Command(line[2:], ""))
        else:
            last = found.pop()
            found.append(Command(last.line, f"{last.output}{line}\n"))
    return found


def prose(page: Path) -> str:
    """The page without its blocks."""
    return FENCE.sub("", page.read_text())


def spans(page: Path) -> list[str]:
    """What stands between backticks outside of blocks."""
    return re.findall(r"`([^`]+)`", prose(page))


def links(page: Path) -> list[str]:
    """The targets of all links of a page that are no addresses."""
    text = re.sub(r"`[^`\n]*`", "``", prose(page))
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]


def anchors(page: Path) -> set[str]:
    """What may stand behind ``#`` in a link to the page: its headings, as the site's builder names them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings]
    return {re.sub(r"[-\s]+", "-", heading) for heading in plain}


def rows(page: Path, name: str) -> list[str]:
    """The rows of tables whose first cell begins with ``name`` between backticks."""
    return [line for line in page.read_text().splitlines() if line.startswith(f"| `{name}`")]
