"""What a TorchServe archive says of itself: each key of its manifest and of model-config.yaml.

The archives were written here as TorchServe's documentation shows them; ``tests/compat`` has TorchServe itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serving.adapters.conventions import is_model
from serving.adapters.torchserve.convention import TorchServe
from serving.adapters.torchserve.manifest import read_manifest
from serving.adapters.torchserve.settings import wishes_of
from serving.config.config import load
from serving.errors import ModelError
from serving.model.folder import read_model
from serving.model.model import Model
from tests.mar import write_archive

SCRIPT = "def handle(data, context):\n    return data\n"


def model_of(folder: Path, **environment: str) -> Model:
    return read_model(folder, "model", load(environment), 2)


def notes(folder: Path) -> str:
    return "\n".join(wishes_of(read_manifest(folder)).notes)


def test_an_archive_is_found_by_its_manifest(tmp_path: Path) -> None:
    model = model_of(write_archive(tmp_path, SCRIPT))
    assert (model.handler, model.options) == (TorchServe.handler, {})
    assert is_model(tmp_path)


def test_an_archive_with_nothing_but_a_manifest_is_not_taken_for_a_wrapped_folder(tmp_path: Path) -> None:
    write_archive(tmp_path, model={"handler": "base_handler"})
    assert model_of(tmp_path).path == str(tmp_path)


def test_a_handler_of_serving_toml_comes_first(tmp_path: Path) -> None:
    write_archive(tmp_path, SCRIPT, "batchSize: 8")
    (tmp_path / "serving.toml").write_text('handler = "mine:Mine"\n')
    model = model_of(tmp_path)
    assert (model.handler, model.batch.max_size) == ("mine:Mine", None)


CONFIG = """
    minWorkers: 2
    maxWorkers: 2
    batchSize: 8
    maxBatchDelay: 50
    responseTimeout: 30
    jobQueueSize: 12
    deviceType: cpu
"""


def test_each_honoured_key_of_the_configuration(tmp_path: Path) -> None:
    model = model_of(write_archive(tmp_path, SCRIPT, CONFIG))
    assert (model.replicas, model.timeout, model.device) == (2, 30, "cpu")
    assert (model.batch.max_size, model.batch.max_delay_ms, model.batch.queue_size) == (8, 50, 12)
    assert notes(tmp_path) == ""


def test_serving_toml_wins_over_the_configuration(tmp_path: Path) -> None:
    write_archive(tmp_path, SCRIPT, CONFIG)
    (tmp_path / "serving.toml").write_text('timeout_s = 5\nreplicas = 1\ndevice = "auto"\n[batch]\nmax_size = 3\n')
    model = model_of(tmp_path)
    assert (model.replicas, model.timeout, model.device, model.batch.max_size) == (1, 5, "auto", 3)
    assert model.batch.max_delay_ms == 50


def test_the_configuration_wins_over_the_servers_settings(tmp_path: Path) -> None:
    model = model_of(write_archive(tmp_path, SCRIPT, "batchSize: 8"), SERVING_BATCH_SIZE="2")
    assert model.batch.max_size == 8


@pytest.mark.parametrize(
    ("config", "device"),
    [("deviceType: gpu", "auto"), ("deviceIds: [1]", "cuda:1"), ("deviceType: cpu\ndeviceIds: [1]", "cpu")],
)
def test_devices(tmp_path: Path, config: str, device: str) -> None:
    assert model_of(write_archive(tmp_path, SCRIPT, config)).device == device


def test_model_config_yaml_counts_even_if_the_manifest_does_not_name_it(tmp_path: Path) -> None:
    write_archive(tmp_path, SCRIPT)
    (tmp_path / "model-config.yaml").write_text("batchSize: 4\n")
    assert model_of(tmp_path).batch.max_size == 4


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("startupTimeout: 10", "startupTimeout has no effect: the server's load_timeout"),
        ("maxRetryTimeoutInSec: 1", "maxRetryTimeoutInSec has no effect"),
        ("clientTimeoutInMills: 1", "clientTimeoutInMills has no effect"),
        ("useJobTicket: true", "useJobTicket has no effect"),
        ("parallelLevel: 2", "parallelLevel has no effect: a replica is one process"),
        ("sequenceMaxIdleMSec: 5", "sequenceMaxIdleMSec has no effect"),
        ("sequenceTimeoutMSec: 5", "sequenceTimeoutMSec has no effect"),
        ("maxSequenceJobQueueSize: 5", "maxSequenceJobQueueSize has no effect"),
        ("minWorkers: 0", "minWorkers 0 has no effect"),
        ("useVenv: true", "useVenv has no effect"),
        ("asyncCommunication: true", "asyncCommunication has no effect"),
        ("sequenceBatching: true", "sequenceBatching has no effect: the server's sessions"),
        ("maxNumSequence: 3", "maxNumSequence has no effect"),
        ("minWorkers: 1\nmaxWorkers: 4", "maxWorkers has no effect: 1 replicas run"),
        ("deviceIds: [1, 2]", "of deviceIds [1, 2] the first is used"),
        ("batchsize: 3", "batchsize is unknown to the server"),
    ],
)
def test_what_has_no_effect_is_named(tmp_path: Path, config: str, told: str) -> None:
    assert told in notes(write_archive(tmp_path, SCRIPT, config))


def test_sections_for_the_handler_are_no_surprise(tmp_path: Path) -> None:
    assert notes(write_archive(tmp_path, SCRIPT, "handler:\n  topk: 3\npt2: inductor\n")) == ""


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("batchSize: many", "batchSize of the model's configuration is 'many'; allowed: 1 to 1024"),
        ("batchSize: 0", "allowed: 1 to 1024"),
        ("responseTimeout: 0", "allowed: above 0, at most 3600 seconds"),
        ("deviceType: neuron", "allowed: cpu or gpu"),
        ("continuousBatching: true", "continuousBatching .* not supported"),
        ("parallelType: pp\ntorchrun:\n  nproc-per-node: 2", "a model spread over several processes: not supported"),
        ("a: [", "model-config.yaml"),
        ("- a", "holds list"),
        ("day: 2024-13-45", "model-config.yaml: month must be in"),
        ("a: " + 5000 * "[", "model-config.yaml"),
        ("a: \x07", "model-config.yaml"),
        ("minWorkers: -1", "minWorkers of the model's configuration is -1; allowed: 0 to 256"),
        ("maxWorkers: 0", "allowed: 1 to 256"),
        ("maxBatchDelay: -1", "allowed: 0 to 60000 milliseconds"),
        ("jobQueueSize: 0", "allowed: 1 or more"),
        ("deviceIds: 1", "allowed: a list of numbers of GPUs"),
    ],
)
def test_a_configuration_that_cannot_be_is_an_error(tmp_path: Path, config: str, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        model_of(write_archive(tmp_path, SCRIPT, config))


@pytest.mark.parametrize(
    ("model", "top", "told"),
    [
        ({}, {"runtime": "LSP"}, "runtime LSP"),
        ({}, {"runtime": "java"}, "runtime"),
        ({"handler": 3}, {}, "handler"),
        ({"handler": "none.py"}, {}, "the archive holds no none.py; allowed beside a file of its own: base_handler"),
        ({"serializedFile": "m.pt", "modelFile": "m.py"}, {}, "modelFile m.py, serializedFile m.pt"),
        ({"extraFiles": "/home/me/a.json,b/c.txt"}, {}, "extraFiles a.json, extraFiles c.txt"),
        ({"requirementsFile": "requirements.txt"}, {}, "requirementsFile requirements.txt"),
        ({"configFile": "c.yaml"}, {}, "configFile c.yaml"),
        ({"serializedFile": "../../etc/passwd"}, {}, "serializedFile"),
        ({"envelope": "xml"}, {}, "envelope"),
    ],
)
def test_a_manifest_that_cannot_be_is_an_error(
    tmp_path: Path, model: dict[str, Any], top: dict[str, Any], told: str
) -> None:
    write_archive(tmp_path, SCRIPT, model=model, **top)
    with pytest.raises(ModelError, match=told):
        read_manifest(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"model": 1}', "{}", '{"a": ' + 100_000 * "[", "\ud800"])
def test_a_broken_manifest_is_an_error(tmp_path: Path, text: str) -> None:
    write_archive(tmp_path, SCRIPT)
    (tmp_path / "MAR-INF" / "MANIFEST.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ModelError, match=r"MANIFEST\.json"):
        read_manifest(tmp_path)


def test_unknown_keys_of_the_manifest_are_named(tmp_path: Path) -> None:
    write_archive(tmp_path, SCRIPT, model={"flavour": 1}, colour="red")
    told = notes(tmp_path)
    assert "colour is unknown" in told
    assert "model.flavour is unknown" in told


@pytest.mark.parametrize(
    ("handler", "module", "function"),
    [
        ("handler.py", "handler", None),
        ("handler", "handler", None),
        ("handler:run", "handler", "run"),
        ("handler.py:run", "handler", "run"),
        ("/home/me/handler.py", "handler", None),
    ],
)
def test_each_way_to_name_a_handler(tmp_path: Path, handler: str, module: str, function: str | None) -> None:
    manifest = read_manifest(write_archive(tmp_path, SCRIPT, model={"handler": handler}))
    assert (manifest.module, manifest.function) == (module, function)
    assert manifest.script == tmp_path / "handler.py"


def test_kserve_envelopes_take_one_request_at_a_time(tmp_path: Path) -> None:
    write_archive(tmp_path, SCRIPT, "batchSize: 8", {"envelope": "kserve"})
    assert model_of(tmp_path).batch.max_size == 1
    assert "the envelope kserve takes one request at a time" in notes(tmp_path)


def test_pickle_by_opt_in(tmp_path: Path) -> None:
    write_archive(tmp_path, SCRIPT)
    (tmp_path / "serving.toml").write_text("allow_pickle = true\n")
    assert model_of(tmp_path).options == {"allow_pickle": True}
