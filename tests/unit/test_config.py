from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from serving.config.config import Config, cores, is_platforms, load
from serving.config.settings import SETTINGS, Setting, workers_for
from serving.errors import ConfigError
from serving.handler import MAX_BATCH
from serving.ipc.scoreboard import SLOTS

VARIABLES = [
    name for setting in SETTINGS for name in (setting.variable, *(alias.variable for alias in setting.aliases))
]
ANY_TEXT = st.text(st.characters(), max_size=40)  # with lone surrogates, as undecodable bytes of the environment give
LIKELY_TEXT = st.from_regex(
    r"(-?[0-9]{0,6}(\.[0-9]{0,3})?(e[0-9]{1,3})?[kKmMgG]?[iI]?[bB]?)|[a-z]{1,8}[/:;-][a-z0-9]{0,8}"
)


def problems(environ: dict[str, str], flags: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(environ, flags or {})
    return caught.value.problems


def outcome(environ: dict[str, str], flags: dict[str, str] | None = None) -> Config | list[str]:
    """The Config or the problems; any other exception is a failure of the test."""
    try:
        return load(environ, flags or {})
    except ConfigError as exc:
        return exc.problems


def test_without_any_variable_everything_has_its_default() -> None:
    config = load({})
    assert config == Config(
        model_dir="/opt/ml/model",
        host="0.0.0.0",
        port=8080,
        http_workers=workers_for(cores()),
        replicas=None,
        device="auto",
        spares=None,
        threads=None,
        request_timeout=60.0,
        load_timeout=350.0,
        max_body=100 * 1024 * 1024,
        body_memory=0.2,
        decoded_memory=0.2,
        queue_size=1024,
        drain_timeout=25.0,
        log_level="info",
        log_format="json",
        metrics="on",
        metrics_models=20,
        default_accept="application/json",
        echo_attributes=False,
        sessions=True,
        session_ttl=1200.0,
        session_limit=1000,
        session_max_bytes=64 * 1024**2,
        session_evict=False,
        bad_record=None,
        stream_timeout=480.0,
        stream_idle_timeout=60.0,
        conversation_timeout=1800.0,
        conversation_idle_timeout=300.0,
        conversation_limit=1000,
        max_message=16 * 1024**2,
        batch_size=None,
        batch_delay_ms=None,
        program="inference.py",
        code_dir=None,
        install_requirements=False,
        compile_cache=None,
        multi_model=False,
        model_store=None,
        default_model=None,
        host_memory=0.8,
        device_memory=0.9,
        warm_tier_bytes=0,
        max_models=None,
        pin=None,
        preload=None,
        reload="off",
        archive_max_bytes=64 * 1024**3,
        archive_max_files=100_000,
        archive_max_ratio=250.0,
        local=False,
        local_input=None,
        local_output=None,
        safe_port_range=None,
        sources={setting.name: "default" for setting in SETTINGS},
        warnings=(),
    )


def test_the_table_has_one_row_for_each_field() -> None:
    fields = [field.name for field in msgspec.structs.fields(Config)]
    assert fields == [setting.name for setting in SETTINGS] + ["sources", "warnings", "options"]


def test_no_variable_belongs_to_two_settings() -> None:
    assert len(VARIABLES) == len(set(VARIABLES))


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_a_default_that_the_table_states_can_be_given_as_text(setting: Setting) -> None:
    if setting.default is not None and not callable(setting.default):
        config = load({setting.variable: setting.describe(setting.default)})
        assert getattr(config, setting.name) == setting.default


def test_a_flag_is_stronger_than_our_variable_than_the_platforms_than_the_default() -> None:
    flags, ours, platform = {"port": "1"}, {"SERVING_PORT": "2"}, {"SAGEMAKER_BIND_TO_PORT": "3"}
    found = [
        load(environ, given) for environ, given in ((ours | platform, flags), (ours | platform, {}), (platform, {}))
    ]
    assert [(config.port, config.sources["port"]) for config in found] == [
        (1, "flag --port"),
        (2, "environment SERVING_PORT"),
        (3, "environment SAGEMAKER_BIND_TO_PORT"),
    ]


def test_a_problem_says_what_is_allowed() -> None:
    assert problems({"SERVING_PORT": "x"}) == ["SERVING_PORT='x' is not allowed: give an integer from 0 to 65535"]


def test_a_wrong_flag_is_named_as_a_flag() -> None:
    (problem,) = problems({}, {"max_body": "x"})
    assert problem.startswith("--max-body='x' is not allowed: give bytes, or a size such as 8MB or 100MiB")


def test_an_empty_flag_is_a_problem() -> None:
    assert problems({}, {"model_dir": ""})[0].startswith("--model-dir='' is not allowed")


def test_a_flag_of_no_setting_is_a_problem() -> None:
    assert problems({}, {"prot": "1"}) == ["--prot='1' is no setting: did you mean --port?"]


def test_all_problems_are_told_at_once() -> None:
    environ = {"SERVING_PORT": "x", "SERVING_DEVICE": "y", "SAGEMAKER_STARTUP_TIMEOUT": "z", "SERVING_POTR": "1"}
    found = problems(environ, {"threads": "none"})
    assert [problem.partition("=")[0] for problem in found] == [
        "SERVING_PORT",
        "SERVING_DEVICE",
        "--threads",
        "SAGEMAKER_STARTUP_TIMEOUT",
        "SERVING_POTR",
    ]


def test_a_wrong_value_is_a_problem_even_where_a_stronger_source_wins() -> None:
    assert len(problems({"SERVING_PORT": "8081", "SAGEMAKER_BIND_TO_PORT": "x"})) == 1


def test_a_long_wrong_value_is_shortened() -> None:
    (problem,) = problems({"SERVING_PORT": "9" * 5000})
    assert len(problem) < 300


@pytest.mark.parametrize("variable", VARIABLES)
def test_an_empty_variable_counts_as_unset(variable: str) -> None:
    assert load({variable: ""}) == load({variable: " \n"}) == load({})


def test_an_unknown_variable_of_ours_is_a_problem_that_names_the_nearest_known_one() -> None:
    assert problems({"SERVING_MODEL_DRI": "/m"}) == [
        "SERVING_MODEL_DRI='/m' is no setting: did you mean SERVING_MODEL_DIR?"
    ]


def test_an_unknown_variable_near_to_none_points_to_the_list() -> None:
    assert problems({"SERVING_XYZZY": "1"}) == ["SERVING_XYZZY='1' is no setting: `serving config` lists all"]


def test_an_unknown_variable_of_the_platform_and_all_others_are_ignored() -> None:
    known = load({"SERVING_INSTALL_REQUIREMENTS": "true"})
    found = load({"SAGEMAKER_REGION": "eu-west-1", "SAGEMAKER_MULTI_MODE": "x", "PATH": "/bin"})
    assert msgspec.structs.replace(found, sources=known.sources) == known, "but that this is the platform"


OF_DJL = [
    *("SERVING_FAIL_FAST", "SERVING_LOAD_MODELS", "SERVING_MIN_WORKERS", "SERVING_MAX_WORKERS", "SERVING_OPTS"),
    *("SERVING_JOB_QUEUE_SIZE", "SERVING_FEATURES", "SERVING_PROMETHEUS", "SERVING_CACHE_BATCH", "SERVING_CACHE_KEY"),
    *("SERVING_RETRY_THRESHOLD", "SERVING_DOWNLOAD_DIR", "SERVING_INFERENCE_ADDRESS", "SERVING_MAX_REQUEST_SIZE"),
    *("SERVING_DDB_CACHE", "SERVING_CHUNKED_READ_TIMEOUT", "SERVING_KEYSTORE_PASS", "SERVING_MODEL_URL_PATTERN"),
]


@pytest.mark.parametrize("variable", OF_DJL)
def test_what_djl_serving_reads_under_our_prefix_is_a_warning(variable: str) -> None:
    config = load({variable: "true"})
    assert config.warnings == (f"without effect here: {variable}, which other servers read",)
    assert msgspec.structs.replace(config, warnings=()) == load({})


def test_no_setting_of_ours_misspelt_by_a_letter_is_taken_for_djls() -> None:
    for setting in SETTINGS:
        bare = setting.variable.removeprefix("SERVING_")
        for at in range(len(bare)):
            swapped = bare[:at] + bare[at : at + 2][::-1] + bare[at + 2 :]
            for wrong in {bare[:at] + bare[at + 1 :], swapped, bare[:at] + bare[at] + bare[at:]} - {bare}:
                if f"SERVING_{wrong}" not in VARIABLES:
                    assert "no setting" in problems({f"SERVING_{wrong}": "1"})[0]


KUBERNETES = {
    "SERVING_SERVICE_HOST": "10.0.0.1",
    "SERVING_SERVICE_PORT": "80",
    "SERVING_SERVICE_PORT_HTTP": "80",
    "SERVING_PORT": "tcp://10.0.0.1:80",
    "SERVING_PORT_80_TCP": "tcp://10.0.0.1:80",
    "SERVING_PORT_80_TCP_PROTO": "tcp",
    "SERVING_PORT_80_TCP_PORT": "80",
    "SERVING_PORT_80_TCP_ADDR": "10.0.0.1",
    "SERVING_PORT_53_UDP": "udp://10.0.0.1:53",
    "SERVING_PORT_53_UDP_PROTO": "udp",
    "SERVING_GPU_SERVICE_HOST": "10.0.0.2",
    "SERVING_GPU_PORT": "tcp://10.0.0.2:80",
    "SERVING_GPU_PORT_80_TCP_ADDR": "10.0.0.2",
}


@pytest.mark.parametrize("variable", KUBERNETES)
def test_what_kubernetes_sets_for_a_service_called_serving_is_ignored_with_a_warning(variable: str) -> None:
    config = load({variable: KUBERNETES[variable]})
    assert config.port == 8080
    assert config.warnings[0].startswith(f"ignored {variable}: Kubernetes")


def test_one_warning_names_all_that_kubernetes_set() -> None:
    (warning,) = load(KUBERNETES).warnings
    assert all(variable in warning for variable in KUBERNETES)


def test_an_address_in_place_of_the_port_leaves_it_to_the_next_source() -> None:
    environ = {"SERVING_PORT": "tcp://10.0.0.1:80", "SAGEMAKER_BIND_TO_PORT": "9000"}
    assert load(environ).port == 9000


def test_a_request_timeout_in_seconds_wins_over_the_ambiguous_one() -> None:
    environ = {
        "SAGEMAKER_MODEL_SERVER_TIMEOUT": "30",
        "SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS": "40",
        "SAGEMAKER_TS_RESPONSE_TIMEOUT": "50",
    }
    assert load(environ).request_timeout == 40.0


def test_an_ambiguous_timeout_above_an_hour_counts_as_an_hour_with_a_warning() -> None:
    config = load({"SAGEMAKER_MODEL_SERVER_TIMEOUT": "7200"})
    assert config.request_timeout == 3600.0
    assert config.warnings == ("SAGEMAKER_MODEL_SERVER_TIMEOUT='7200' counts as seconds, of which 3600 are the most",)


def test_a_value_that_is_not_used_gives_no_warning() -> None:
    assert load({"SAGEMAKER_MODEL_SERVER_TIMEOUT": "7200", "SERVING_REQUEST_TIMEOUT": "5"}).warnings == ()


def test_a_request_size_in_bytes_wins_over_one_in_megabytes() -> None:
    assert load({"SAGEMAKER_MAX_PAYLOAD_IN_MB": "6", "SAGEMAKER_MAX_REQUEST_SIZE": "99"}).max_body == 99


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_submit_directory_counts_where_it_is_an_existing_folder(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "my code"
    folder.mkdir()
    config = load({"SAGEMAKER_SUBMIT_DIRECTORY": form.format(folder)})
    assert config.code_dir == str(folder)
    assert config.sources["code_dir"] == "environment SAGEMAKER_SUBMIT_DIRECTORY"


@pytest.mark.parametrize("text", ["s3://bucket/sourcedir.tar.gz", "/no/such/folder", "file://", "file://[", "%00"])
def test_any_other_submit_directory_is_ignored(text: str) -> None:
    assert load({"SAGEMAKER_SUBMIT_DIRECTORY": text}) == load({"SAGEMAKER_REGION": "eu-west-1"})


def test_an_ignored_submit_directory_does_not_hide_our_own_variable() -> None:
    environ = {"SAGEMAKER_SUBMIT_DIRECTORY": "s3://bucket/x", "SERVING_CODE_DIR": "/code"}
    assert load(environ).code_dir == "/code"


@given(st.sampled_from(VARIABLES), ANY_TEXT | LIKELY_TEXT)
@example("SERVING_PORT", "tcp://1.2.3.4:80")
@example("SAGEMAKER_SUBMIT_DIRECTORY", "/tmp/\udcff")
def test_any_text_in_any_variable_gives_a_config_or_a_problem_with_its_name(variable: str, text: str) -> None:
    result = outcome({variable: text})
    if isinstance(result, Config):
        assert msgspec.json.decode(msgspec.json.encode(result), type=Config) == result
    else:
        (problem,) = result
        assert problem.startswith(f"{variable}=")
        assert problem.isprintable()


@given(st.sampled_from(SETTINGS), ANY_TEXT | LIKELY_TEXT)
def test_any_text_in_any_flag_gives_a_config_or_a_problem_with_its_name(setting: Setting, text: str) -> None:
    result = outcome({}, {setting.name: text})
    if isinstance(result, Config):
        assert result.sources[setting.name] == f"flag {setting.flag}"
    else:
        (problem,) = result
        assert problem.startswith(f"{setting.flag}=")


@given(st.dictionaries(ANY_TEXT.map("SERVING_{}".format) | ANY_TEXT, ANY_TEXT, max_size=4))
def test_any_environment_gives_a_config_or_problems_of_our_variables(environ: dict[str, str]) -> None:
    result = outcome(environ)
    if not isinstance(result, Config):
        assert all(re.match("(SERVING|SAGEMAKER)_.*=", problem) for problem in result)


def test_spares_are_left_to_the_devices_unless_somebody_says_how_many() -> None:
    assert load({}).spares is None
    assert load({"SERVING_SPARES": "0"}).spares == 0
    assert load({}, {"spares": "2"}).spares == 2
    assert len(problems({"SERVING_SPARES": "17"})) == 1


def test_a_config_survives_the_way_to_a_child_process() -> None:
    config = load({"SAGEMAKER_SAFE_PORT_RANGE": "1-2", "SERVING_BATCH_DELAY_MS": "2", **KUBERNETES})
    assert msgspec.json.decode(msgspec.json.encode(config), type=Config) == config


def test_limits_are_those_of_the_scoreboard() -> None:
    most = SLOTS // 2  # the other half is for those that replace them
    assert load({"SERVING_HTTP_WORKERS": str(most), "SERVING_BATCH_SIZE": str(MAX_BATCH)}).http_workers == most
    assert len(problems({"SERVING_HTTP_WORKERS": str(most + 1), "SERVING_BATCH_SIZE": str(MAX_BATCH + 1)})) == 2


def test_the_settings_of_a_single_model_are_ignored_in_multi_model_mode() -> None:
    torchserve = {"SAGEMAKER_TS_BATCH_SIZE": "8", "SAGEMAKER_TS_RESPONSE_TIMEOUT": "5"}
    assert load(torchserve).batch_size == 8
    many = load({**torchserve, "SAGEMAKER_MULTI_MODEL": "true"})
    assert (many.batch_size, many.request_timeout) == (None, 60.0)


def test_a_repository_of_triton_in_the_model_folder_is_a_store(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    triton = {"SAGEMAKER_TRITON_DEFAULT_MODEL_NAME": "mine", "SERVING_MODEL_DIR": str(tmp_path)}
    config = load(triton)
    assert (config.default_model, config.model_store, config.preload) == ("mine", str(tmp_path), ("mine",))
    assert config.sources["model_store"] == "environment SAGEMAKER_TRITON_DEFAULT_MODEL_NAME"
    assert load({**triton, "SERVING_PRELOAD": "other"}).preload == ("other",)
    assert load({**triton, "SERVING_MODEL_STORE": "/models"}).model_store == "/models"
    assert load({**triton, "SERVING_DEFAULT_MODEL": "other"}).model_store is None
    assert not load({**triton, "SAGEMAKER_TRITON_DEFAULT_MODEL_NAME": "another"}).many
    assert load({**triton, "SAGEMAKER_MULTI_MODEL": "true"}).default_model is None


def test_options_of_djl_are_kept_for_its_models() -> None:
    assert load({"OPTION_MODEL_ID": "tiny", "OPTION_ENTRYPOINT": "run.py", "MY_OPTION_X": "1"}).options == {
        "model_id": "tiny",
        "entrypoint": "run.py",
    }


def test_settings_of_other_servers_that_have_no_effect_are_named() -> None:
    environ = {"TS_CONFIG_FILE": "a", "ENABLE_TORCH_PROFILER": "true", "SAGEMAKER_TS_MAX_WORKERS": "4", "HOME": "/"}
    names = "ENABLE_TORCH_PROFILER, SAGEMAKER_TS_MAX_WORKERS, TS_CONFIG_FILE"
    assert load(environ, {}).warnings == (f"without effect here: {names}, which other servers read",)
    assert load({"SAGEMAKER_TS_MIN_WORKERS": "2"}, {}).replicas == 2


@pytest.mark.parametrize(
    ("environ", "installs"),
    [
        ({}, False),
        ({"SAGEMAKER_PROGRAM": "inference.py"}, True),
        ({"SAGEMAKER_CONTAINER_LOG_LEVEL": "20"}, True),
        ({"SM_MODEL_DIR": "/opt/ml/model"}, True),
        ({"SAGEMAKER_PROGRAM": " "}, False),
        ({"SAGEMAKER_PROGRAM": "inference.py", "SERVING_INSTALL_REQUIREMENTS": "false"}, False),
        ({"SERVING_INSTALL_REQUIREMENTS": "true"}, True),
        ({"SMALL": "1", "SERVING_MODEL_DIR": "/opt/ml/not-there"}, False),
    ],
)
def test_requirements_are_installed_unasked_where_the_environment_is_the_platforms(
    environ: dict[str, str], installs: bool
) -> None:
    assert load(environ).install_requirements is installs


def test_a_model_where_the_platform_puts_it_is_the_platforms(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert is_platforms({}, str(tmp_path / "model"), str(tmp_path))
    assert not is_platforms({}, str(tmp_path / "other"), str(tmp_path))
    assert not is_platforms({}, str(tmp_path / "model"))
