"""Origin: the place in user code that raised an exception, and a one-line description."""

from __future__ import annotations

import difflib
import inspect
import re
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from traceback import walk_tb

LONGEST = 500  # characters of an exception's text
NAMES = 8  # most names in a list
OURS = Path(__file__).parent.parent
FOREIGN = tuple(
    {*(sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")), str(OURS), "<"}
    | {str(OURS.parent / "handlers")}
)  # prefixes of paths that are not user code
PACKAGES = ("site-packages", "dist-packages")

_homes: list[Path] = []


def set_homes(*folders: str) -> None:
    """Set the folders of the model of this process; files are shown relative to the first."""
    _homes[:] = [Path(folder) for folder in dict.fromkeys(folders) if folder]


def describe(exc: BaseException) -> str:
    """Return ``ValueError: no such shape (code/digits.py:14 in warmup)``.

    That is type, text, the nearest file name where a file is missing, and the last frame of user code, if any.
    """
    place = origin(exc)
    return f"{type(exc).__name__}: {text_of(exc)}{hint(exc)}{f' ({place})' if place else ''}"


def reason(exc: BaseException) -> str:
    """Return the text of a ModelError, and where user code raised it."""
    place, text = origin(exc), text_of(exc)
    return text if not place or place.partition(" ")[0] in text else f"{text} ({place})"


def words(exc: BaseException) -> str:
    """Return the text alone, for clients, who know no Python classes; the class name where there is no text."""
    text = text_of(exc)
    if isinstance(exc, KeyError) and text:
        return f"{text} is missing"
    return text or type(exc).__name__


def text_of(exc: BaseException) -> str:
    """Return the exception's text on one line."""
    try:
        text = (exc.msg or "") if isinstance(exc, SyntaxError) else str(exc)
    except Exception:  # its __str__ is user code
        text = ""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}…"


def origin(exc: BaseException) -> str:
    """Return ``code/digits.py:14 in warmup``: the last frame of user code behind ``exc`` or its causes, "" if none."""
    for one in chain(exc):
        if isinstance(one, SyntaxError) and one.filename and is_users(one.filename):
            return f"{shown(one.filename)}:{one.lineno}"
        frames = [(frame.f_code, line) for frame, line in walk_tb(one.__traceback__)]
        own = [frame for frame in frames if is_own(frame[0].co_filename)]
        found = own or [frame for frame in frames if is_users(frame[0].co_filename)]
        if found:
            code, line = found[-1]
            where = "" if code.co_name == "<module>" else f" in {code.co_name}"
            return f"{shown(code.co_filename)}:{line}{where}"
    return ""


def chain(exc: BaseException) -> Iterator[BaseException]:
    one: BaseException | None = exc
    seen: set[int] = set()
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__


def is_own(file: str) -> bool:
    """Return whether a source file is the model's own."""
    path = Path(file)
    return any(path.is_relative_to(home) for home in _homes) and not any(part in PACKAGES for part in path.parts)


def is_users(file: str) -> bool:
    return is_own(file) or not file.startswith(FOREIGN)


def shown(file: str) -> str:
    """Return a source file as its author knows it: relative to the model, else its last two parts."""
    path = Path(file)
    for home in _homes[:1]:
        if path.is_relative_to(home):
            return str(path.relative_to(home))
    return "/".join(path.parts[-2:])


def hint(exc: BaseException) -> str:
    """Return what a missing file's name may have meant; only the model's own folders are searched."""
    name = exc.filename if isinstance(exc, FileNotFoundError) else None
    if not isinstance(name, str):
        return ""
    folder = Path(name).parent
    if not any(folder.is_relative_to(home) for home in _homes):
        return ""
    try:
        names = [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError:
        return f"; there is no folder {folder.name}"
    return f"; {nearest(Path(name).name, names, 'there is')}"


def nearest(name: str, names: Iterable[str], has: str) -> str:
    """Return ``did you mean Digits?``, else ``has Digits, Letters``, a list of what there is."""
    known = sorted(names)
    near = close(name, known)
    listed = f"{has} {', '.join(known[:NAMES]) or 'nothing'}{', …' if len(known) > NAMES else ''}"
    if near is None:
        return listed
    return f"did you mean {near}?" if len(known) == 1 else f"did you mean {near}? {listed}"


def close(name: str, names: Iterable[str]) -> str | None:
    """Return the most similar name; None where none is similar."""
    return next(iter(difflib.get_close_matches(name, sorted(names), n=1)), None)


def defined(thing: object) -> str:
    """Return ``code/digits.py:6``, where a class or function of user code is defined; "" for other code."""
    try:
        file, (_, line) = inspect.getsourcefile(thing) or "", inspect.getsourcelines(thing)  # type: ignore[arg-type]
    except (OSError, TypeError):
        return ""
    return f"{shown(file)}:{line}" if is_users(file) else ""


def assigned(owner: type, name: str) -> str:
    """Return ``code/digits.py:7``, where user code sets an attribute of a class or its instances; where it is not
    found, the place of the class.
    """
    setting = re.compile(rf"\s+(\w+\.)?{re.escape(name)}\s*(:[^=]+)?=(?!=)")
    for one in owner.__mro__:
        place = defined(one)
        if not place:
            continue
        lines, first = inspect.getsourcelines(one)
        found = next((number for number, line in enumerate(lines) if setting.match(line)), None)
        if found is not None:
            return f"{place.rpartition(':')[0]}:{first + found}"
    return defined(owner)


def with_nul(folder: Path) -> str:
    """Return the place of the first NUL byte in the Python files of a folder, "" where there is none."""
    for file in sorted(folder.rglob("*.py")):
        try:
            before, nul, _ = file.read_bytes().partition(b"\0")
        except OSError:
            continue
        if nul:
            line = before.count(b"\n") + 1
            return f"{shown(str(file))}:{line}"
    return ""
