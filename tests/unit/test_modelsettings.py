"""What is wrong in ``serving.toml`` is told as settings tell it: place, key, value, what is allowed or was meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import ModelError
from serving.model.model import BatchTable, Settings
from serving.model.modelsettings import BATCH, TOP, read_settings


def problem(folder: Path, toml: str | bytes) -> str:
    path = folder / "serving.toml"
    path.write_bytes(toml.encode() if isinstance(toml, str) else toml)
    with pytest.raises(ModelError) as info:
        read_settings(folder)
    return str(info.value).replace(str(path), "FILE")


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("handlr = 'a:B'", "FILE, line 1: handlr is no key: did you mean handler?"),
        ("\n\n[batch]\nmax_sizes = 3", "FILE, line 4: [batch] max_sizes is no key: did you mean max_size?"),
        ("batch.max_sizes = 3", "FILE, line 1: [batch] max_sizes is no key: did you mean max_size?"),
        ("batch = {max_sizes = 3}", "FILE, line 1: [batch] max_sizes is no key: did you mean max_size?"),
        ("max_size = 3", "FILE, line 1: max_size is no key: max_size belongs into [batch]"),
        ("[batch]\ntimeout_s = 3", "FILE, line 2: [batch] timeout_s is no key: timeout_s belongs above all tables"),
        (
            "[batch]\nxyzzy = 3",
            "FILE, line 2: [batch] xyzzy is no key: allowed: max_size, max_delay_ms, queue_size, pad, max_latency_ms",
        ),
        ("[bach]\nmax_size = 3", "FILE, line 1: bach is no key: did you mean batch?"),
        ("[batch]\nmax_size = 'many'", "FILE, line 2: [batch] max_size is 'many'; allowed: an integer from 1 to 1024"),
        ("[batch]\nmax_size = true", "FILE, line 2: [batch] max_size is true; allowed: an integer from 1 to 1024"),
        ("[batch]\nmax_size = 1.5", "FILE, line 2: [batch] max_size is 1.5; allowed: an integer from 1 to 1024"),
        ("[batch]\nmax_size = 0", "FILE, line 2: [batch] max_size is 0; allowed: an integer from 1 to 1024"),
        ("[batch]\nmax_size = 1025", "FILE, line 2: [batch] max_size is 1025; allowed: an integer from 1 to 1024"),
        ("[batch]\nqueue_size = 0", "FILE, line 2: [batch] queue_size is 0; allowed: an integer, 1 or more"),
        ("[batch]\nmax_delay_ms = -1", "FILE, line 2: [batch] max_delay_ms is -1; allowed: 0 to 60000"),
        ("[batch]\nmax_delay_ms = nan", "FILE, line 2: [batch] max_delay_ms is nan; allowed: 0 to 60000"),
        ("[batch]\nmax_latency_ms = 0", "FILE, line 2: [batch] max_latency_ms is 0; allowed: above 0, to 60000"),
        ("[batch]\nmax_latency_ms = inf", "FILE, line 2: [batch] max_latency_ms is inf; allowed: above 0, to 60000"),
        ("batch = 3", "FILE, line 1: batch is 3; allowed: a table"),
        ("handler = 3", "FILE, line 1: handler is 3; allowed: \"module:Class\""),
        ("handler = 'nocolon'", "FILE, line 1: handler is 'nocolon'; allowed: \"module:Class\""),
        ("# x\ntimeout_s = 0", "FILE, line 2: timeout_s is 0; allowed: above 0, at most 3600"),
        ("timeout_s = nan", "FILE, line 1: timeout_s is nan; allowed: above 0, at most 3600"),
        ("pin = 'yes'", "FILE, line 1: pin is 'yes'; allowed: true or false"),
        ("threads = 1000", "FILE, line 1: threads is 1000; allowed: an integer from 1 to 256"),
        ("dtype = 'half'", 'FILE, line 1: dtype is \'half\'; allowed: "float32", "float16", "bfloat16"'),
        ("batch_sizes = [1, 0]", "FILE, line 1: batch_sizes is [1, 0]; allowed: a list of integers from 1 to 1024"),
        ("[env]\nA = 1", "FILE, line 2: [env] A is 1; allowed: text, such as \"1\""),
        ("[env]\n'A=B' = '1'", "FILE, line 2: [env] 'A=B' is no name of a variable"),
        (
            "optimize = true\ncompile = 'default'",
            "FILE, line 1: optimize is true and compile 'default'; allowed: one of them",
        ),
        (
            "handlr = 'a:B'\nthreads = 0\n[batch]\nmax_sizes = 1",
            "FILE, line 1: handlr is no key: did you mean handler?; FILE, line 2: threads is 0; allowed: an integer "
            "from 1 to 256; FILE, line 4: [batch] max_sizes is no key: did you mean max_size?",
        ),
        ("handler = 'a:B'\nthreads = \npin = true", "FILE, line 2: Invalid value in 'threads ='"),
        ("handler = 'a:B'\n[batch", "FILE, line 2: Expected ']' at the end of a table declaration in '[batch'"),
        ("pin = true\npin = true", "FILE, line 2: Cannot overwrite a value in 'pin = true'"),
        (b"handler = '\xff'", "FILE is no UTF-8: invalid start byte at byte 11"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, toml: str | bytes, said: str) -> None:
    assert problem(tmp_path, toml) == said


def test_the_rules_are_of_the_keys_that_there_are() -> None:
    assert list(TOP) == list(Settings.__struct_fields__)
    assert list(BATCH) == list(BatchTable.__struct_fields__)


EVERY_KEY = """
handler = "a:B"
timeout_s = 1
replicas = 256
device = "cuda:1"
threads = 1
gpus = 1
allow_pickle = true
pin = false
dtype = "float16"
channels_last = true
compile = "off"
cuda_graphs = false
batch_sizes = [1, 2]
optimize = true
tf32 = false
[env]
A = ""
[options]
a = [1, {b = 2}]
[batch]
max_size = 1
max_delay_ms = 1
queue_size = 3
pad = 0
max_latency_ms = 2.5
"""


def test_whatever_a_rule_lets_through_is_taken(tmp_path: Path) -> None:
    (tmp_path / "serving.toml").write_text(EVERY_KEY)
    found = read_settings(tmp_path)
    assert (found.batch, found.env, found.options) == (BatchTable(1, 1, 3, 0, 2.5), {"A": ""}, {"a": [1, {"b": 2}]})


VALUES = st.one_of(
    st.none().map(lambda _: {}),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.sampled_from([*BATCH, "A", "x y"]), st.integers() | st.text(max_size=3), max_size=3),
)


@given(st.dictionaries(st.sampled_from([*TOP, "other", "a.b"]), VALUES, max_size=6))
def test_any_table_is_settings_or_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, table: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "serving.toml").write_bytes(encoded(table))
    try:
        assert isinstance(read_settings(folder), Settings)
    except ModelError as exc:
        assert "Object" not in str(exc)
        assert "Expected `" not in str(exc)


def encoded(table: dict[str, Any]) -> bytes:
    """As TOML, each value on one line."""
    return "".join(f"{quoted(key)} = {written(value)}\n" for key, value in table.items()).encode()


def quoted(text: str) -> str:
    return '"' + "".join(one if one.isalnum() and one.isascii() else f"\\U{ord(one):08x}" for one in text) + '"'


def written(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return quoted(value.encode("utf-8", "ignore").decode())
        case dict():
            return "{" + ", ".join(f"{quoted(key)} = {written(one)}" for key, one in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(written, value)) + "]"
    return repr(value)
