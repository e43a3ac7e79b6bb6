"""Stacks: the line of the handler's code in the stacks that a dying process has written.

Python's faulthandler writes them, the innermost frame of each thread first:

    Current thread 0x00007f6c (most recent call first):
      File "/opt/ml/model/code/inference.py", line 14 in predict
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import PurePath
from typing import NamedTuple

THREAD = re.compile(r"(Current thread|Thread) 0x")
FRAME = re.compile(r'  File "(.*)", line (\d+) in (.*)')
PACKAGES = ("site-packages", "dist-packages")


class Frame(NamedTuple):
    file: str
    line: int
    name: str


def threads(stacks: str) -> Iterator[list[Frame]]:
    """Yield the frames of each thread, the innermost first; first those of the thread that the signal met."""
    found: list[tuple[bool, list[Frame]]] = []
    for line in stacks.splitlines():
        if (thread := THREAD.match(line)) is not None:
            found.append((thread[1] != "Current thread", []))
        elif found and (frame := FRAME.match(line)) is not None:
            found[-1][1].append(Frame(frame[1], int(frame[2]), frame[3]))
    yield from (frames for _, frames in sorted(found, key=lambda one: one[0]))


def innermost(stacks: str, homes: Sequence[str], is_foreign: Callable[[str], bool]) -> str:
    """Return ``code/inference.py:14 in predict``, the innermost line of the handler's code, "" if there is none.

    ``homes`` are the model's folders, whose files are shown relative to the first. Code elsewhere counts where nothing
    of the model's own runs, unless it ``is_foreign``.
    """
    every = [frame for frames in threads(stacks) for frame in frames]
    own = (frame for frame in every if is_below(frame.file, homes))
    others = (frame for frame in every if not is_foreign(frame.file))
    found = next(own, None) or next(others, None)
    return f"{shown(found.file, homes)}:{found.line} in {found.name}" if found is not None else ""


def is_below(file: str, homes: Iterable[str]) -> bool:
    path = PurePath(file)
    return any(path.is_relative_to(home) for home in homes if home) and not set(PACKAGES) & set(path.parts)


def shown(file: str, homes: Sequence[str]) -> str:
    path = PurePath(file)
    if homes and homes[0] and path.is_relative_to(homes[0]):
        return str(path.relative_to(homes[0]))
    return "/".join(path.parts[-2:])
