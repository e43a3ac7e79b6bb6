"""``logging`` and ``warnings`` in a model's process are user code's, whatever it does to them; the server's own events
come out all the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BEGIN = """
import logging, logging.config, sys, os, warnings
from serving.system import log
from serving.usercode import userlogs
from serving.usercode.prints import Prints
from serving.config.words import Words
userlogs.setup("{level}", "json")
prints = Prints([Words(None, 0), Words(None, 1)], model="m")
userlogs.claim(model="m")
mine = logging.getLogger("mine")
def say():
    mine.debug("a debug"); mine.info("an info"); mine.warning("a warning"); mine.error("an error")
    print("a print"); print("an error print", file=sys.stderr)
    log.info("our info"); log.error("our error", exc=ValueError("the reason"))
"""
OURS = {"a print", "an error print", "our info", "our error"}
DICT = """
logging.config.dictConfig({"version": 1, "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"level": "LEVEL", "handlers": ["console"]}})
"""
FILE = """[loggers]
keys=root
[handlers]
keys=console
[formatters]
keys=
[logger_root]
level=INFO
handlers=console
[handler_console]
class=StreamHandler
args=(sys.stdout,)
"""


def run(code: str, level: str = "info", cwd: Path | None = None) -> list[dict[str, Any]]:
    program = BEGIN.replace("{level}", level) + code
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=cwd)
    assert result.stderr == ""
    return [json.loads(line) for line in result.stdout.splitlines()]


def messages(lines: list[dict[str, Any]]) -> set[str]:
    return {line["message"] for line in lines}


SETUPS = {
    "nothing": ("", {"an info", "a warning", "an error"}),
    "a level": ("logging.getLogger().setLevel(logging.DEBUG)", {"a debug", "an info", "a warning", "an error"}),
    "basicConfig": (
        "logging.basicConfig(level=logging.DEBUG)",
        {"DEBUG:mine:a debug", "INFO:mine:an info", "WARNING:mine:a warning", "ERROR:mine:an error"},
    ),
    "a format": (
        "logging.basicConfig(format='%(message)s!', level=logging.WARNING, stream=sys.stdout)",
        {"a warning!", "an error!"},
    ),
    "logging.info": (
        "logging.info('first')",
        {"INFO:root:first", "INFO:mine:an info", "WARNING:mine:a warning", "ERROR:mine:an error"},
    ),
    # Of those that dictConfig finds, all are disabled.
    "dictConfig": (DICT.replace("LEVEL", "INFO"), set()),
    "dictConfig, later": (
        DICT.replace("LEVEL", "INFO") + "mine = logging.getLogger('other')",
        {"an info", "a warning", "an error"},
    ),
    "fileConfig": (
        "logging.config.fileConfig('log.ini', disable_existing_loggers=False)",
        {"an info", "a warning", "an error"},
    ),
    "disable": ("logging.disable(logging.ERROR)", set()),
    "levels of all": (
        "for one in [logging.root, *map(logging.getLogger, logging.root.manager.loggerDict)]: one.setLevel(60)",
        set(),
    ),
    "a logger's own handler": (
        "mine.addHandler(logging.StreamHandler(sys.stdout)); mine.propagate = False",
        {"an info", "a warning", "an error"},
    ),
    "names like ours": (
        "logging.getLogger('serving').setLevel(60); logging.getLogger('serving').disabled = True",
        {"an info", "a warning", "an error"},
    ),
    "a record factory that fails": (
        "logging.setLogRecordFactory(lambda *a, **k: 1 / 0); logging.disable(logging.ERROR)",
        set(),
    ),
    "level names": ("logging.addLevelName(logging.INFO, 'NOTE')", {"an info", "a warning", "an error"}),
    "shutdown": ("logging.shutdown()", {"an info", "a warning", "an error"}),
    "descriptor 1 is elsewhere": ("os.dup2(os.open(os.devnull, os.O_WRONLY), 1)", {"an info", "a warning", "an error"}),
    "an ended stream": ("sys.stdout.flush(); sys.stdout = sys.__stdout__", {"an info", "a warning", "an error"}),
}


@pytest.mark.parametrize("name", SETUPS)
def test_what_user_code_sets_up_holds_and_our_own_events_are_there_in_any_case(name: str, tmp_path: Path) -> None:
    (tmp_path / "log.ini").write_text(FILE)
    setup, theirs = SETUPS[name]
    lines = run(f"{setup}\nsay()\n", cwd=tmp_path)
    assert messages(lines) == OURS | theirs
    [ours] = [line for line in lines if line["message"] == "our error"]
    assert ours["level"] == "error"
    assert "the reason" in ours["traceback"]
    [info] = [line for line in lines if line["message"] == "our info"]
    assert info["level"] == "info"


def test_records_that_nobody_takes_have_level_logger_and_model() -> None:
    lines = run("try:\n    1 / 0\nexcept ZeroDivisionError:\n    mine.exception('odd', extra={'fields': 5})\n")
    [line] = lines
    assert (line["level"], line["logger"], line["model"], line["message"]) == ("error", "mine", "m", "odd")
    assert "ZeroDivisionError" in line["traceback"]


@pytest.mark.parametrize(("level", "theirs"), [("debug", 3), ("warning", 2), ("error", 1)])
def test_the_servers_level_bounds_what_nobody_has_set_up_and_no_print(level: str, theirs: int) -> None:
    found = messages(run("say()", level))
    assert len(found & {"a debug", "an info", "a warning", "an error"}) == theirs
    assert {"a print", "an error print"} <= found


def test_a_line_that_cannot_be_made_is_no_failure_of_who_wrote_it() -> None:
    found = run("mine.info('%d', 'no number'); print('after')")
    assert "after" in messages(found)
    assert any("Logging error" in line["message"] for line in found)


def test_a_warning_is_one_line_and_filters_are_pythons() -> None:
    code = "warnings.warn('two\\nlines')\nwarnings.simplefilter('error')\ntry:\n    warnings.warn('x')\n"
    code += "except UserWarning:\n    print('raised')\n"
    warned, raised = run(code)
    assert (warned["level"], warned["message"], warned["category"]) == ("warning", "two\nlines", "UserWarning")
    assert raised["message"] == "raised"
    setup = "logging.captureWarnings(True)\nlogging.basicConfig(format='%(name)s')\nwarnings.warn('x')\n"
    assert messages(run(setup)) == {"py.warnings"}


def test_children_that_are_forked_print_and_log_as_their_parent() -> None:
    code = "if os.fork() == 0:\n    say()\n    print('half', end='', flush=True)\n    os._exit(0)\nos.wait()\n"
    assert messages(run(code)) >= OURS | {"an info", "half"}
