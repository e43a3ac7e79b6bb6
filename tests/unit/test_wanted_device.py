"""Which device a model gets whose files ask for a GPU where the server's settings say the CPU, and the reverse."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.config.config import load
from serving.errors import ModelError
from serving.model.folder import read_model
from serving.worker.device import resolve
from tests.mar import write_archive

TRITON_GPU = "instance_group { kind: KIND_GPU }"
TRITON_ONE = "instance_group { kind: KIND_GPU gpus: [1] }"
TRITON_CPU = "instance_group { kind: KIND_CPU }"
TORCHSERVE_GPU = "deviceType: gpu\ndeviceIds: [1]\n"
TORCHSERVE_CPU = "deviceType: cpu\n"


def folder_with(root: Path, convention: str, says: str, toml: str) -> Path:
    if convention == "triton":
        (root / "1").mkdir()
        (root / "1" / "model.py").write_text("")
        (root / "config.pbtxt").write_text(says)
    else:
        write_archive(root, "")
        (root / "model-config.yaml").write_text(says)
    if toml:
        (root / "serving.toml").write_text(toml)
    return root


@pytest.mark.parametrize(
    ("convention", "says", "setting", "toml", "device"),
    [
        ("triton", TRITON_GPU, "", "", "cuda"),
        ("triton", TRITON_GPU, "auto", "", "cuda"),
        ("triton", TRITON_GPU, "cpu", "", "cpu"),
        ("triton", TRITON_ONE, "", "", "cuda:1"),
        ("triton", TRITON_ONE, "cpu", "", "cpu"),
        ("triton", TRITON_CPU, "cuda", "", "cpu"),
        ("triton", TRITON_GPU, "cpu", 'device = "cuda"', "cuda"),
        ("triton", TRITON_GPU, "", 'device = "cpu"', "cpu"),
        ("triton", "", "cpu", "", "cpu"),
        ("torchserve", TORCHSERVE_GPU, "", "", "cuda:1"),
        ("torchserve", TORCHSERVE_GPU, "cpu", "", "cpu"),
        ("torchserve", TORCHSERVE_CPU, "cuda", "", "cpu"),
        ("torchserve", TORCHSERVE_GPU, "cpu", 'device = "cuda:1"', "cuda:1"),
        ("torchserve", TORCHSERVE_GPU, "", 'device = "cpu"', "cpu"),
    ],
)
def test_a_server_that_is_to_use_the_cpu_does(
    tmp_path: Path, convention: str, says: str, setting: str, toml: str, device: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = load({"SERVING_DEVICE": setting} if setting else {})
    assert read_model(folder_with(tmp_path, convention, says, toml), "m", config, 4).device == device
    told = [record for record in caplog.records if "asks for a GPU" in record.getMessage()]
    assert bool(told) == (setting == "cpu" and says in (TRITON_GPU, TRITON_ONE, TORCHSERVE_GPU) and not toml)


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:3"])
def test_a_gpu_that_is_not_there_names_what_helps(device: str) -> None:
    with pytest.raises(ModelError, match=f'device is {device}, .* SERVING_DEVICE=cpu.* device = "cpu"'):
        resolve(device)
