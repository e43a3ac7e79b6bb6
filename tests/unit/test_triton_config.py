"""``config.pbtxt``: the text format, the fields, and what a folder says of how it is served.

The texts were written here to the shapes that the configurations of triton-inference-server/python_backend have.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.adapters.conventions import is_model
from serving.adapters.triton.config import TritonConfigError, as_dict, read, read_config
from serving.adapters.triton.convention import Triton
from serving.adapters.triton.folder import notes, place
from serving.adapters.triton.text import TextError, parse
from serving.config.config import load
from serving.errors import ModelError
from serving.model.folder import read_model


def test_every_way_to_write_a_field() -> None:
    text = """
    # a comment
    name: "a" 'b'  # strings side by side are one
    repeated: [1, 2] repeated: 0x10, repeated: -1;
    nested { x: 1.5f } nested: < y: true >
    list [ { z: WORD }, { z: .5e1 } ]
    escaped: "\\n\\x41\\101\\"\\u00e9" plain: "é"
    """
    assert parse(text.replace("\\u00e9", "\\303\\251")) == {
        "name": ["ab"],
        "repeated": [1, 2, 16, -1],
        "nested": [{"x": [1.5]}, {"y": ["true"]}],
        "list": [{"z": ["WORD"]}, {"z": [5.0]}],
        "escaped": ['\nAA"é'],
        "plain": ["é"],
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name 3", "line 1: expected a value"),
        ("\nname: ]", "line 2"),
        ("a { b: 1", "expected a field's name, found 'the end'"),
        ("a: [1 2]", "comma"),
        ("a: $", r"'\$'"),
        ('a: "\\xff"', "no UTF-8"),
        ("a {" * 100, "more than 64"),
        ('a: "open', "not understood"),
    ],
)
def test_what_is_no_text_format_is_an_error_with_its_line(text: str, words: str) -> None:
    with pytest.raises(TextError, match=words):
        parse(text)


def test_the_shapes_of_the_public_examples() -> None:
    config, unknown = read("""
        name: "one"
        backend: "python"
        max_batch_size: 128
        input [ { name: "A" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, -1, 224 ] } ]
        input { name: "B" data_type: TYPE_STRING dims: 1 optional: true reshape { shape: [ ] } }
        output[ { name: "C" data_type: TYPE_UINT8 dims: [1000] label_filename: "labels.txt" } ]
        model_transaction_policy { decoupled: True }
        instance_group [ { count: 3 kind: KIND_CPU } ]
        dynamic_batching { preferred_batch_size: [4, 8] max_queue_delay_microseconds: 100 }
        parameters: { key: "EXECUTION_ENV_PATH" value: { string_value: "$$TRITON_MODEL_DIRECTORY/env.tar.gz" } }
        parameters { key: "other" value { string_value: "x" } }
        version_policy: { specific { versions: [1, 3] } }
        model_warmup [ {
            name: "w" batch_size: 1 inputs { key: "A" value { data_type: TYPE_FP32 dims: 3 zero_data: true } }
        } ]
    """)
    assert unknown == []
    assert [(one.name, one.dims) for one in config.input] == [("A", [3, -1, 224]), ("B", [1])]
    assert config.input[1].reshape is not None
    assert config.input[1].reshape.shape == []
    assert config.is_decoupled
    assert config.instance_group[0].count == 3
    assert config.parameters["other"].string_value == "x"
    assert config.version_policy is not None
    assert config.version_policy.specific is not None
    assert config.model_warmup[0].inputs["A"].zero_data
    shown = as_dict(config)
    assert shown["model_transaction_policy"] == {"decoupled": True}
    assert "sequence_batching" not in shown
    assert "reshape" not in shown["input"][0]


def test_fields_that_are_not_known_are_named_with_their_place() -> None:
    _, unknown = read("optimization { } input { name: 'A' colour: 3 } dynamic_batching { priority_queue_policy { } }")
    assert unknown == ["optimization", "input.colour", "dynamic_batching.priority_queue_policy"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_batch_size: 'four'", "max_batch_size"),
        ("max_batch_size: 1 max_batch_size: 2", "given 2 times"),
        ("model_transaction_policy { decoupled: maybe }", "decoupled is 'maybe'"),
        ("input { dims: 1 }", "name"),
        ("name { }", "name is a message"),
        ("dynamic_batching: 3", "dynamic_batching is 3"),
        ("parameters { value { } }", "parameters is a map"),
    ],
)
def test_fields_of_a_wrong_type_are_named(text: str, words: str) -> None:
    with pytest.raises(TritonConfigError, match=words):
        read(text)


def folder(path: Path, config: str | None = "", *versions: str) -> Path:
    for version in versions or ("1",):
        (path / version).mkdir(parents=True)
        (path / version / "model.py").touch()
    if config is not None:
        (path / "config.pbtxt").write_text(config)
    return path


def test_a_folder_without_a_configuration_is_one_too_and_its_name_is_the_folders(tmp_path: Path) -> None:
    path = folder(tmp_path / "mine", None)
    assert is_model(path)
    assert read_config(path)[0].name == "mine"
    model = read_model(tmp_path, "m", load({}, {}), 4)
    assert (model.handler, model.path, model.options) == (Triton.handler, str(path), {"version": "1"})


@pytest.mark.parametrize(
    ("policy", "version"),
    [
        ("", "10"),
        ("version_policy { latest { num_versions: 1 } }", "10"),
        ("version_policy { all { } }", "10"),
        ("version_policy: { specific: { versions: [1, 2] } }", "2"),
    ],
)
def test_the_newest_version_that_the_policy_allows_is_served(tmp_path: Path, policy: str, version: str) -> None:
    path = folder(tmp_path / "m", policy, "1", "2", "10", "0", "03")
    assert place(path).version == version


@pytest.mark.parametrize(
    ("groups", "replicas", "device"),
    [
        ("", None, None),
        ("instance_group [ { kind: KIND_CPU } ]", None, "cpu"),
        ("instance_group [ { count: 3 kind: KIND_CPU } ]", 3, "cpu"),
        ("instance_group { kind: KIND_GPU count: 2 }", 2, "cuda"),
        ("instance_group { kind: KIND_GPU gpus: 1 }", None, "cuda:1"),
        ("instance_group { kind: KIND_GPU gpus: [0, 1] count: 2 }", 4, "auto"),
        ("instance_group { kind: KIND_MODEL }", None, None),
        ("instance_group { count: 3 } sequence_batching { }", 1, None),
    ],
)
def test_instance_groups_are_replicas_on_a_device(
    tmp_path: Path, groups: str, replicas: int | None, device: str | None
) -> None:
    placed = place(folder(tmp_path / "m", groups))
    assert (placed.replicas, placed.device) == (replicas, device)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("platform: 'ensemble'", "'ensemble'"),
        ("backend: 'onnxruntime'", "'onnxruntime'"),
        ("instance_group { kind: KIND_TPU }", "KIND_TPU"),
        ("max_batch_size: -1", "max_batch_size"),
        ("input { name: 'A' data_type: TYPE_FLOAT dims: 1 }", "'A' is 'TYPE_FLOAT'; allowed: TYPE_BF16, TYPE_BOOL"),
        ("output { name: 'A' data_type: FP32 dims: 1 }", "'A' is 'FP32'"),
        ("input { name: 'A' data_type: TYPE_FP32 dims: -2 }", "dims"),
        ("input { name: 'A' format: NCHW }", "format of 'A' is 'NCHW'"),
        ("sequence_batching { control_input { name: 'A' control { kind: CONTROL_START } } }", "CONTROL_START"),
        ("sequence_batching { control_input { name: 'A' control { int32_false_true: 1 } } }", "1 values"),
        (
            "sequence_batching { control_input { name: 'A' "
            "control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_FP32 } } }",
            "CORRID is 'TYPE_FP32'",
        ),
        ("dynamic_batching { default_queue_policy { timeout_action: DROP } }", "timeout_action is 'DROP'"),
        ("dynamic_batching { priority_levels: 3 }", "default_priority_level is 0; allowed: 1 to 3"),
        ("dynamic_batching { default_priority_level: 1 }", "default_priority_level is 1; allowed: 0"),
        ("version_policy { specific { versions: 7 } }", "version policy"),
        ("name: ", "config.pbtxt: line 1"),
    ],
)
def test_what_cannot_be_served_says_why(tmp_path: Path, config: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        read_model(folder(tmp_path / "m", config), "m", load({}, {}), 4)


def test_a_script_in_code_wins_over_a_version_without_a_configuration(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", None)
    (path / "code").mkdir()
    (path / "code" / "inference.py").touch()
    assert read_model(path, "m", load({}, {}), 4).handler != Triton.handler
    (path / "config.pbtxt").touch()
    assert read_model(path, "m", load({}, {}), 4).handler == Triton.handler


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("sequence_batching { } instance_group { count: 2 }", "one instance"),
        ("instance_group { kind: KIND_CPU } instance_group { kind: KIND_GPU }", "several kinds"),
        ("instance_group { kind: KIND_GPU gpus: [0, 1] }", "several GPUs"),
        ("output { name: 'A' label_filename: 'x' }", "label_filename of output 'A'"),
        ("input { name: 'A' is_shape_tensor: true }", "is_shape_tensor of 'A'"),
        ("parameters { key: 'EXECUTION_ENV_PATH' value { string_value: 'env.tar.gz' } }", "EXECUTION_ENV_PATH"),
        ("dynamic_batching { default_queue_policy { timeout_action: DELAY } }", "timeout_action DELAY"),
        ("dynamic_batching { preferred_batch_size: [2, 4] }", "preferred_batch_size"),
        ("dynamic_batching { } sequence_batching { }", "dynamic_batching has no effect"),
        ("sequence_batching { oldest { max_candidate_sequences: 4 } }", "max_candidate_sequences of oldest"),
        ("sequence_batching { oldest { preferred_batch_size: 4 } }", "preferred_batch_size of oldest"),
        ("sequence_batching { direct { minimum_slot_utilization: 0.5 } }", "minimum_slot_utilization of direct"),
        ("metric_tags { key: 'a' value: 'b' }", "metric_tags"),
        ("cc_model_filenames { key: '7.5' value: 'x' }", "cc_model_filenames"),
        ("runtime: 'x'", "runtime"),
    ],
)
def test_what_is_honoured_in_another_way_or_not_at_all_is_noted(config: str, words: str) -> None:
    [note] = notes(read(config)[0])
    assert words in note


def test_an_ordinary_configuration_needs_no_note() -> None:
    config, unknown = read("max_batch_size: 4 dynamic_batching { preferred_batch_size: 4 } instance_group { count: 2 }")
    assert (notes(config), unknown) == ([], [])
