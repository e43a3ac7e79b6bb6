"""What a model folder says of itself, and who wins where several say something."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from serving.adapters.toolkit.convention import Toolkit
from serving.adapters.weights import Weights
from serving.config.config import load
from serving.errors import ModelError
from serving.handler import BatchPolicy
from serving.model.folder import read_model
from serving.model.model import Model


def read(folder: Path, cores: int = 4, gpus: Sequence[str] = (), **environ: str) -> Model:
    variables = {f"SERVING_{name.upper()}": value for name, value in environ.items()}
    return read_model(folder, "m", load(variables, {}), cores, gpus)


def write(folder: Path, toml: str = "", *files: str) -> Path:
    folder.mkdir(exist_ok=True)
    if toml:
        (folder / "serving.toml").write_text(toml)
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_without_serving_toml_the_files_decide(tmp_path: Path) -> None:
    script = write(tmp_path / "a", "", "code/inference.py", "model.pt")
    assert read(script).handler == Toolkit.handler
    assert read(script).options["script"] == str(script / "code" / "inference.py")
    assert read(write(tmp_path / "b", "", "net.pt2")).handler == Weights.handler


def test_the_named_handler_wins_over_the_files(tmp_path: Path) -> None:
    assert read(write(tmp_path, 'handler = "a:B"', "code/inference.py", "model.pt")).handler == "a:B"


def test_a_folder_packed_one_level_too_deep_is_entered(tmp_path: Path) -> None:
    write(tmp_path / "inner", "", "model.pt")
    assert read(tmp_path).path == str(tmp_path / "inner")
    write(tmp_path / "other", "", "code/inference.py")
    assert read(tmp_path / "other").path == str(tmp_path / "other"), "code/ alone is no inner model"


def test_the_models_own_words_win_over_settings_and_those_over_the_class(tmp_path: Path) -> None:
    base = BatchPolicy(max_size=8, max_delay_ms=5.0, queue_size=7)
    silent = read(write(tmp_path, 'handler = "a:B"'))
    assert silent.policy(base) == base
    assert (silent.timeout, silent.replicas, silent.threads) == (60.0, 1, 4)
    told = read(tmp_path, batch_size="16", batch_delay_ms="2", request_timeout="9", replicas="2")
    assert told.policy(base) == BatchPolicy(max_size=16, max_delay_ms=2.0, queue_size=7)
    assert (told.timeout, told.replicas, told.threads) == (9.0, 2, 2)
    write(
        tmp_path, 'handler = "a:B"\ntimeout_s = 3\nreplicas = 4\nthreads = 3\n[batch]\nmax_size = 1\nmax_delay_ms = 0\n'
    )
    own = read(tmp_path, batch_size="16", batch_delay_ms="2", request_timeout="9", replicas="2")
    assert own.policy(base) == BatchPolicy(max_size=1, max_delay_ms=0.0, queue_size=7)
    assert (own.timeout, own.replicas, own.threads) == (3.0, 4, 3)


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("handlr = 'a:B'", "handlr"),
        ("handler = 'nocolon'", "nocolon"),
        ("[batch]\nsize = 3", "size"),
        ("threads = 0", "threads is 0"),
        ("timeout_s = 4000", "timeout_s is 4000"),
        ("handler = 3", "handler"),
        ("not toml", "serving.toml"),
        ("[env]\nA = 1", "env"),
        ("[env]\nCUDA_VISIBLE_DEVICES = '1'", 'say device = "cuda:N" instead'),
        ("device = 'gpu'", "device is 'gpu'; allowed: auto, cpu, mps, cuda or cuda:N"),
    ],
)
def test_what_is_wrong_in_serving_toml_is_named(tmp_path: Path, toml: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        read(write(tmp_path, toml))


def test_a_code_folder_elsewhere_is_used(tmp_path: Path) -> None:
    write(tmp_path / "code2", "", "serve_me.py")
    model = read(write(tmp_path / "m", "", "x.bin"), code_dir=str(tmp_path / "code2"), program="serve_me.py")
    assert model.options["script"] == str(tmp_path / "code2" / "serve_me.py")


def test_batches_of_a_toolkits_script_are_stacked_only_where_this_server_was_asked_to(tmp_path: Path) -> None:
    def sizes(environ: dict[str, str]) -> tuple[bool, bool]:
        options = read_model(tmp_path, "m", load(environ, {}), 4).options
        return options["sized"], options["stacks"]

    write(tmp_path, "", "code/inference.py")
    assert sizes({}) == (False, False)
    assert sizes({"SAGEMAKER_TS_BATCH_SIZE": "4"}) == (True, False)
    assert sizes({"SERVING_BATCH_SIZE": "4"}) == (True, True)
    write(tmp_path, "[batch]\nmax_size = 4\n")
    assert sizes({"SAGEMAKER_TS_BATCH_SIZE": "8"}) == (True, True)


def test_a_program_that_is_set_and_not_there_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, "", "model.pt")
    assert read(tmp_path).handler == Weights.handler
    assert not caplog.records
    assert read(tmp_path, program="serve").handler == Weights.handler
    assert "the program that is set is not there" in caplog.text


GPUS = ("cuda:0", "cuda:1", "cuda:2")


def test_one_model_has_a_replica_on_each_gpu_unless_somebody_says_how_many(tmp_path: Path) -> None:
    folder = write(tmp_path, 'handler = "a:B"')
    everywhere = read(folder, cores=12, gpus=GPUS)
    assert (everywhere.replicas, everywhere.per_gpu, everywhere.threads) == (3, True, 4)
    assert read(folder, gpus=GPUS, device="cuda").replicas == 3
    told = read(folder, gpus=GPUS, replicas="2")
    assert (told.replicas, told.per_gpu) == (2, False)
    for device in ("cpu", "cuda:1"):
        assert read(folder, gpus=GPUS, device=device).replicas == 1
    assert read(folder).replicas == 1


def test_of_many_models_each_has_one_replica(tmp_path: Path) -> None:
    assert read(write(tmp_path, 'handler = "a:B"'), gpus=GPUS, multi_model="true").replicas == 1


def test_a_gpu_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    folder = write(tmp_path, 'handler = "a:B"\ndevice = "cuda:3"')
    with pytest.raises(ModelError, match="device is cuda:3, but this server sees cuda:0, cuda:1, cuda:2"):
        read(folder, gpus=GPUS)
    assert read(folder).device == "cuda:3", "where nobody can tell the worker will"
