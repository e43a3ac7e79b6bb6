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


OWN = {"our info", "our error"}
LOGGED = {"an info", "a warning", "an error"}
HOSTILE = {
    "basicConfig by force": ("logging.basicConfig(force=True, stream=open(os.devnull, 'w'))", OURS),
    "a handler that raises": (
        "class Raises(logging.Handler):\n    def emit(self, record): raise OSError('full')\n"
        "logging.basicConfig(handlers=[Raises()], level=0)\n"
        "try:\n    mine.info('x')\nexcept OSError:\n    print('raised')\nlogging.root.handlers.clear()",
        OURS | LOGGED | {"raised", "a debug"},
    ),
    "a filter that raises": ("logging.root.addFilter(lambda record: 1 / 0)", OURS | LOGGED),
    "no last resort": (
        "logging.lastResort = None",
        OURS | {'No handlers could be found for logger "mine"'},
    ),
    "another last resort": ("logging.lastResort = logging.NullHandler()", OURS),
    "no details": (
        "logging.logProcesses = logging.logThreads = logging.raiseExceptions = False; logging._srcfile = None",
        OURS | LOGGED,
    ),
    "another class of records": ("logging.LogRecord = None", OURS | LOGGED),
    "another class of loggers": ("logging.setLoggerClass(type('L', (logging.Logger,), {}))", OURS | LOGGED),
    "a formatter for all": ("logging.Formatter.converter = None; logging._defaultFormatter = None", OURS | LOGGED),
    "a replaced stdout": ("import io; sys.stdout = io.StringIO()", OWN | LOGGED | {"an error print"}),
    "no stdout": ("sys.stdout = sys.stderr = sys.__stdout__ = None", OWN | LOGGED),
    "a closed stderr": ("sys.stderr.close(); sys.stderr = sys.stdout", OURS | LOGGED),
    "closed descriptors": ("os.close(1); os.close(2)", OURS | LOGGED),
    "a file in place of descriptor 1": ("os.close(1); open(os.devnull, 'w+')", OURS | LOGGED),
    "a descriptor that is none": ("sys.stdout = None; os.closerange(0, 3)", OWN | LOGGED | {"an error print"}),
    "colours": ("os.environ.update(TERM='xterm', FORCE_COLOR='1')", OURS | LOGGED),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_our_own_events_are_there_whatever_user_code_does_to_logging_and_streams(name: str) -> None:
    setup, expected = HOSTILE[name]
    code = f"""{setup}
steps = [lambda: mine.debug("a debug"), lambda: mine.info("an info"), lambda: mine.warning("a warning"),
    lambda: mine.error("an error"), lambda: print("a print"), lambda: print("an error print", file=sys.stderr),
    lambda: log.info("our info"), lambda: log.error("our error", exc=ValueError("the reason"))]
for step in steps:
    try:
        step()
    except Exception:
        pass
"""
    lines = run(code)
    assert messages(lines) == expected
    for line in lines:
        assert line["pid"] > 0
    [ours] = [line for line in lines if line["message"] == "our error"]
    assert "the reason" in ours["traceback"]


def test_what_is_redirected_is_user_codes_and_comes_back() -> None:
    code = """
import contextlib, io
with contextlib.redirect_stdout(io.StringIO()) as mine_alone:
    say()
print("kept" if mine_alone.getvalue() == "a print\\n" else "lost")
"""
    assert messages(run(code)) == {*OWN, *LOGGED, "an error print", "kept"}


def test_the_level_of_user_codes_loggers_follows_the_servers_unless_it_has_chosen_one() -> None:
    code = """
import array, threading
log.logger.switch = array.array("Q", [0])
def at(level):
    log.logger.switch[0] = getattr(logging, level)
    userlogs.follow_level()
    print(level); mine.debug("a debug"); mine.info("an info"); mine.warning("a warning")
at("ERROR"); at("DEBUG"); at("WARNING")
with logging._lock:
    other = threading.Thread(target=at, args=["INFO"]); other.start()
    other.join()  # it waits for nobody
at("INFO")
mine.setLevel(logging.DEBUG); at("ERROR")
logging.root.setLevel(logging.WARNING); mine.setLevel(logging.NOTSET); at("DEBUG")
"""
    found = [line["message"] for line in run(code)]
    assert found == [
        *("ERROR", "DEBUG", "an info", "a warning", "WARNING", "a warning", "INFO", "a warning"),
        *("INFO", "an info", "a warning"),
        *("ERROR", "a debug", "an info", "a warning"),
        *("DEBUG", "a warning"),
    ]


def test_repeats_are_summed_up_by_the_line_that_logs_them_and_prints_are_kept() -> None:
    code = """
for number in range(200):
    mine.warning("odd value %d", number, extra={"fields": None})
    warnings.warn(f"value {number}")
    print("value", number)
log.logger.handlers[0]._repeats._clock = lambda: 1e9
log.write_left_out()
"""
    lines = run(code)
    shown = [line for line in lines if line["message"].startswith("odd value")]
    assert 10 <= len(shown) < 100, "some a second"
    assert [line["message"] for line in lines if line.get("stream")] == [f"value {n}" for n in range(200)]
    told = [line for line in lines if line["message"] == "repeated lines were left out"]
    left = [line for line in told if line.get("logger") == "mine"]
    assert sum(line["lines"] for line in left) == 200 - len(shown)
    assert {(line["level"], line["model"], line["like"]) for line in left} == {("warning", "m", "odd value %d")}
    assert len(told) > len(left), "of warnings likewise"


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
