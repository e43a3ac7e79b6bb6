from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from serving.cli import cli
from serving.client import ModelsClient
from serving.config.config import Config
from serving.config.settings import SETTINGS, Setting

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("SERVING_", "SAGEMAKER_")):
            monkeypatch.delenv(name)


class Supervisor:
    """Stands in for the process that serves: keeps what it was started with and gives its exit code."""

    def __init__(self, code: int = 0) -> None:
        self.code = code
        self.started: list[Config] = []

    def __call__(self, config: Config) -> int:
        self.started.append(config)
        return self.code


def invoke(*arguments: str, supervisor: Supervisor | None = None, **environ: str) -> Result:
    return CliRunner().invoke(cli, arguments, env=environ, obj=supervisor)


def script(entry: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """One of the installed scripts as a process."""
    code = f"from serving.cli import {entry}; {entry}()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environ},
        timeout=60,
    )


@pytest.fixture
def answering() -> Iterator[type[Answering]]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        Answering.port = server.server_port
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Answering
        server.shutdown()
        thread.join()


class Answering(BaseHTTPRequestHandler):
    """Stands in for a server: GET /ping has this status, and one model is loaded."""

    status = 200
    port = 0

    def do_GET(self) -> None:
        is_list = "/models?" in self.path
        self.send_response(200 if is_list else self.status if self.path == "/ping" else 404)
        self.end_headers()
        self.wfile.write(b'{"models":[{"modelName":"a"}]}' if is_list else b'{"status":"any"}')

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (404, 1)])
def test_ping_says_with_its_exit_code_whether_the_server_could_serve(
    answering: type[Answering], status: int, code: int
) -> None:
    answering.status = status
    result = invoke("ping", SERVING_PORT=str(answering.port), http_proxy="http://127.0.0.1:1")
    assert (result.exit_code, result.stdout) == (code, '{"status":"any"}\n')


def test_ping_asks_the_port_of_the_platform_and_the_address_that_the_server_listens_on(
    answering: type[Answering],
) -> None:
    answering.status = 200
    assert invoke("ping", SAGEMAKER_BIND_TO_PORT=str(answering.port), SERVING_HOST="127.0.0.1").exit_code == 0
    assert invoke("ping", SERVING_PORT=str(answering.port), SERVING_HOST="127.0.0.9").exit_code == 1


def test_models_are_asked_for_without_the_environments_proxy(
    answering: type[Answering], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for host in ("127.0.0.1", "localhost"):
        assert ModelsClient(f"http://{host}:{answering.port}").list() == [{"modelName": "a"}]


def test_another_machine_is_asked_through_the_environments_proxy(
    answering: type[Answering], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{answering.port}")
    assert ModelsClient("http://far.invalid").list() == [{"modelName": "a"}]


def test_ping_fails_where_nobody_listens() -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        result = invoke("ping", SERVING_PORT=str(unheard.getsockname()[1]))
    assert (result.exit_code, result.exception.__class__) == (1, SystemExit)


def test_serve_starts_the_supervisor_and_ends_with_its_code() -> None:
    supervisor = Supervisor(code=3)
    assert invoke("serve", "--port", "9000", supervisor=supervisor, SERVING_DEVICE="cpu").exit_code == 3
    (config,) = supervisor.started
    assert (config.port, config.device) == (9000, "cpu")


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_setting_has_a_flag_with_the_parser_and_the_messages_of_the_environment(setting: Setting) -> None:
    result = invoke("serve", setting.flag, "\0", supervisor=Supervisor())
    assert result.exit_code == 2
    assert result.stderr.startswith(f"serving: {setting.flag}=")


def test_every_problem_is_one_line_and_nothing_is_started() -> None:
    supervisor = Supervisor()
    result = invoke("serve", "--port", "a\nb", supervisor=supervisor, SERVING_DEVICE="gpu", SERVING_TYPO="1")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert [line.partition("=")[0] for line in result.stderr.splitlines()] == [
        "serving: --port",
        "serving: SERVING_DEVICE",
        "serving: SERVING_TYPO",
    ]
    assert supervisor.started == []


@pytest.mark.parametrize(
    ("arguments", "value"), [([], False), (["--multi-model"], True), (["--multi-model", "false"], False)]
)
def test_a_switch_may_be_given_without_a_value(arguments: list[str], value: bool) -> None:
    supervisor = Supervisor()
    assert invoke("serve", *arguments, "--port", "1", supervisor=supervisor).exit_code == 0
    assert supervisor.started[0].multi_model is value


def test_help_tells_what_is_allowed_the_variables_and_the_default() -> None:
    result = invoke("serve", "--help")
    text = " ".join(result.stdout.split())
    assert (
        "Port to listen on; 0 takes any free one: an integer from 0 to 65535. "
        "[SERVING_PORT, SAGEMAKER_BIND_TO_PORT; default: 8080]" in text
    )
    assert "default: cores / replicas, at least 1" in text
    assert "default: half the cores up to 4, a sixth of 24 and more up to 16" in text


def test_config_shows_every_setting_its_value_and_its_source_in_columns() -> None:
    result = invoke("config", "--port", "9000", SAGEMAKER_PROGRAM="mine", SERVING_SAFE_PORT_RANGE="1-2")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["setting", *(setting.name for setting in SETTINGS)]
    rows = {line.split()[0]: line for line in lines}
    column, source = lines[0].index("value"), lines[0].index("source")
    for name, value, origin in (
        ("port", "9000", "flag --port"),
        ("program", "mine.py", "environment SAGEMAKER_PROGRAM"),
        ("safe_port_range", "1-2", "environment SERVING_SAFE_PORT_RANGE"),
        ("threads", "cores / replicas, at least 1", "default"),
        ("multi_model", "false", "default"),
        ("request_timeout", "60", "default"),
    ):
        assert (rows[name][column:source].strip(), rows[name][source:]) == (value, origin)


def test_config_as_json_holds_the_same() -> None:
    result = invoke("config", "--json", SERVING_PORT="tcp://10.0.0.1:80", SERVING_BATCH_SIZE="4")
    shown = json.loads(result.stdout)
    assert list(shown["settings"]) == [setting.name for setting in SETTINGS]
    assert shown["settings"]["batch_size"] == {"value": 4, "source": "environment SERVING_BATCH_SIZE"}
    assert shown["settings"]["replicas"] == {"value": None, "source": "default"}
    assert len(shown["warnings"]) == 1


def test_config_ends_with_the_warnings() -> None:
    result = invoke("config", SERVING_PORT="tcp://10.0.0.1:80")
    assert result.exit_code == 0
    assert result.stderr.startswith("serving: warning: ignored SERVING_PORT: Kubernetes")


def test_config_with_a_problem_fails_as_serve_does() -> None:
    result = invoke("config", SERVING_PORT="x")
    assert (result.exit_code, result.stdout) == (2, "")


def test_version_is_one_line() -> None:
    result = invoke("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("serving ")


def test_an_unknown_option_is_an_error_with_a_suggestion() -> None:
    result = invoke("serve", "--prot", "1")
    assert result.exit_code == 2
    assert "--port" in result.stderr


def test_a_command_that_nobody_knows_is_an_error_with_a_suggestion() -> None:
    result = script("main", "confgi")
    assert result.returncode == 2
    assert "Did you mean 'config'?" in result.stderr


def test_train_is_refused_in_one_line() -> None:
    result = script("main", "train")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "serving: this image serves models, it does not train them; `serve` starts the server\n"


def test_another_program_of_the_image_takes_the_place_of_the_server() -> None:
    result = script("main", "sh", "-c", 'echo "$0 $1"; exit 7', "--flag", "two words")
    assert (result.returncode, result.stdout) == (7, "--flag two words\n")


def test_a_program_run_in_our_place_ends_when_its_reader_does() -> None:
    result = script("main", "sh", "-c", "yes | head -n 1")
    assert (result.stdout, result.stderr) == ("y\n", "")


def test_a_program_that_cannot_be_run_is_told_in_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)
    result = script("main", str(broken))
    assert result.returncode == 126
    assert result.stderr.splitlines() == [f"serving: cannot run {broken}: No such file or directory"]


@pytest.mark.parametrize(
    ("entry", "arguments"),
    [
        ("main", []),
        ("main", ["serve"]),
        ("serve_main", []),
        ("serve_main", ["serve"]),
        ("serve_main", ["serve", "--threads", "1"]),
    ],
)
def test_all_ways_to_start_the_server_read_the_settings(entry: str, arguments: list[str]) -> None:
    result = script(entry, *arguments, SERVING_PORT="x")
    assert result.returncode == 2
    assert result.stderr.startswith("serving: SERVING_PORT='x' is not allowed")


def test_the_package_can_be_run_as_a_module() -> None:
    result = subprocess.run([sys.executable, "-m", "serving", "--version"], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0
    assert result.stdout.startswith("serving ")


def test_the_command_line_imports_neither_torch_nor_numpy_nor_the_supervisor() -> None:
    code = "import serving.cli, sys; print({'torch', 'numpy', 'serving.supervisor.main'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout == "set()\n"
