"""Archives as the released torch-model-archiver writes them, in each of its formats, are served as they are."""

from __future__ import annotations

import os
import subprocess
import textwrap
from pathlib import Path

import pytest

from tests.compat.torchserve import HOME
from tests.e2e.server import serving
from tests.e2e.store import call

ARCHIVER = HOME / "bin" / "torch-model-archiver"
SCRIPT = """
    from pathlib import Path
    from words import WORD
    def handle(data, context):
        return data and [WORD + Path("extra.txt").read_text() + str(context.model_yaml_config["batchSize"])]
"""

pytestmark = pytest.mark.skipif(not ARCHIVER.exists(), reason=f"{HOME} has no archiver: `make compat` installs it")


@pytest.mark.parametrize(
    ("form", "made"), [("default", "m.mar"), ("zip-store", "m.mar"), ("tgz", "m.tar.gz"), ("no-archive", "m")]
)
def test_each_format_is_served(tmp_path: Path, form: str, made: str) -> None:
    (tmp_path / "handler.py").write_text(textwrap.dedent(SCRIPT))
    (tmp_path / "words.py").write_text("WORD = 'one'\n")
    (tmp_path / "extra.txt").write_text("two")
    (tmp_path / "config.yaml").write_text("batchSize: 3\n")
    (tmp_path / "made").mkdir()
    told = {"model-name": "m", "version": "1.0", "handler": "handler:handle", "extra-files": "words.py,extra.txt"}
    told |= {"config-file": "config.yaml", "archive-format": form, "export-path": "made"}
    (tmp_path / "tmp").mkdir()
    variables = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    command = [ARCHIVER, *(f"--{key}={value}" for key, value in told.items())]
    subprocess.run(command, cwd=tmp_path, env=variables, check=True)
    with serving(tmp_path / "made" / made) as server:
        assert call(server, "POST", "/invocations", b"x").body == b"onetwo3"
