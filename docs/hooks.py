"""What ``mkdocs build`` does beside Markdown: pages from files outside of docs/, links that leave it, and two tables.

``python docs/hooks.py`` writes the tables of docs/settings.md and docs/metrics.md; a test compares them with the code.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
# Files of the repository that are pages of the site, by the page's name.
PAGES = {
    "index.md": "README.md",
    "results.md": "benchmarks/RESULTS.md",
    "notes.md": "benchmarks/NOTES.md",
    "scale.md": "benchmarks/SCALE.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "security.md": "SECURITY.md",
}
PICTURES = {"throughput.png": "benchmarks/throughput.png", "latency.png": "benchmarks/latency.png"}
SITE = {path: page for page, path in (PAGES | PICTURES).items()}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
CELL = re.compile(r"<td.*?</td>", re.DOTALL)
CODE = re.compile(r"(<code>)(.*?)(</code>)", re.DOTALL)
BEGIN, END = "<!-- begin", "<!-- end -->"


def settings_table() -> str:
    """A row of Markdown for each setting of the server: its variable, default, meaning and aliases."""
    from serving.config.settings import SETTINGS

    rows = ["| setting | default | meaning | also read from |", "|---|---|---|---|"]
    for setting in SETTINGS:
        aliases = ", ".join(f"`{alias.variable}`" for alias in setting.aliases)
        meaning = f"{setting.help}: {setting.parser.allowed}"
        rows.append(f"| `{setting.variable}` | {setting.describe(setting.default)} | {meaning} | {aliases} |")
    return "\n".join(rows)


def metrics_table() -> str:
    """A row of Markdown for each metric of the server: its name, labels and meaning."""
    from serving.metrics.catalog import ALL
    from serving.metrics.region import Kind

    kinds = {Kind.COUNTER: "counter", Kind.GAUGE: "gauge", Kind.HISTOGRAM: "histogram"}
    rows = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    for one in ALL:
        labels = ", ".join(f"`{label}`" for label in one.labels)
        rows.append(f"| `{one.name}` | {kinds[one.kind]} | {labels} | {one.help} |")
    return "\n".join(rows)


TABLES = {"settings.md": settings_table, "metrics.md": metrics_table}


def with_table(name: str, page: str) -> str:
    """The page of this name with the table between its two marks made anew."""
    head, begin, rest = page.partition(BEGIN)
    mark, _, rest = rest.partition("\n")
    return f"{head}{begin}{mark}\n{TABLES[name]()}\n{END}{rest.partition(END)[2]}"


def link(page: str, source: str, found: re.Match[str]) -> str:
    """A link of the file ``source`` as it has to be on ``page``. What is no part of the site becomes text."""
    picture, text, target = found.groups()
    path, _, anchor = target.partition("#")
    if not path or "://" in path or path.startswith("mailto:"):
        return found[0]
    place = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    here = SITE.get(place) or (place.removeprefix("docs/") if place.startswith("docs/") else None)
    if here is None:
        return text if place in text or place.startswith(text.strip("`")) else f"{text} (`{place}`)"
    relative = posixpath.relpath(here, posixpath.dirname(page) or ".")
    return f"{picture}[{text}]({relative}{'#' if anchor else ''}{anchor})"


def linked(page: str, source: str, markdown: str) -> str:
    return LINK.sub(lambda found: link(page, source, found), markdown)


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages and pictures that lie elsewhere."""
    from mkdocs.structure.files import File

    for page, path in (PAGES | PICTURES).items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    name = page.file.src_uri
    return linked(name, PAGES.get(name, f"docs/{name}"), markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Long names in tables may be broken behind a mark, and nowhere else."""

    def broken(code: re.Match[str]) -> str:
        return code[1] + re.sub(r"([_.:/])(?=\w)", r"\1<wbr>", code[2]) + code[3]

    return CELL.sub(lambda cell: CODE.sub(broken, cell[0]), html)


if __name__ == "__main__":
    for name in TABLES:
        path = ROOT / "docs" / name
        path.write_text(with_table(name, path.read_text()))
