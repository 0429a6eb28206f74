"""The configuration of a cluster: values that are accepted, the file, and the page that describes both."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from iris.config import ClusterConfig, known_options, read_config_file
from iris.errors import FailedPreconditionError, InvalidArgumentError

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "configuration.md"


def test_option_values_as_text_and_as_numbers_are_the_same() -> None:
    written = ClusterConfig(lease="5m", keep_logs="forever", keep_log_bytes="unlimited", max_log_bytes="10MB")
    assert written == ClusterConfig(lease=300, keep_logs=math.inf, keep_log_bytes=math.inf, max_log_bytes=10_000_000)


@pytest.mark.parametrize(
    "config",
    [
        ClusterConfig(),
        ClusterConfig(state_dir="/d", port=0, workers=4, labels=["zone=a", "disk=ssd"], keep_logs="forever"),
        ClusterConfig(engine="slurm", slurm_options=["--partition=a b"], lease=0.5e1, max_log_bytes=12_345),
        ClusterConfig(keep_jobs="90d", keep_jobs_count=100_000, max_bytes_per_user="1GB"),
        ClusterConfig(keep_jobs="forever", keep_jobs_count="unlimited", max_bytes_per_user="unlimited"),
        ClusterConfig(keep_logs=0.001, keep_log_bytes="unlimited", max_processes=0, insecure_no_tls=True),
    ],
    ids=["all defaults", "local engine", "Slurm engine", "kept jobs", "all jobs kept", "extreme limits"],
)
def test_configuration_written_to_json_and_read_is_unchanged(config: ClusterConfig) -> None:
    assert ClusterConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("key", "value", "accepted"),
    [
        ("port", 65536, "a whole number from 0 to 65535"),
        ("port", True, "a whole number from 0 to 65535"),
        ("port", "http", "a whole number from 0 to 65535"),
        ("workers", 0, "a whole number from 1 to 64"),
        ("lease", "0s", "a time of 1s or more"),
        ("lease", "forever", "a time of 1s or more"),
        ("lease", math.inf, "a time of 1s or more"),
        ("keep_logs", "soon", "a time longer than 0, such as '90s', '5m' or '30d', or 'forever'"),
        ("keep_jobs_count", 0, "a whole number from 1 to 2147483647, or 'unlimited'"),
        ("keep_log_bytes", -1, "a size of 1 byte or more"),
        ("max_log_bytes", "unlimited", "a size of 1 byte or more"),
        ("engine", "kubernetes", "'local', 'ray' or 'slurm'"),
        ("labels", "zone=a", "labels as KEY=VALUE"),
        ("labels", ["zone"], "labels as KEY=VALUE"),
        ("slurm_options", [1], "a list of options"),
        ("insecure_no_tls", "yes", "true or false"),
        ("host", " ", "the name or the IP address of a host"),
        ("state_dir", "", "the path of a directory"),
        ("log_format", "xml", "'text' or 'json'"),
    ],
)
def test_error_for_a_refused_option_value_names_the_accepted_values(key: str, value: object, accepted: str) -> None:
    with pytest.raises(InvalidArgumentError, match=re.escape(f"expected {accepted}")) as raised:
        ClusterConfig(**{key: value})
    assert str(raised.value).startswith(ClusterConfig.options[key].label)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("webhooks", ["https://ana:secret@example.com"], "must not contain a user name or a password"),
        ("webhooks", ["ftp://ana:secret@example.com"], "must not contain a user name or a password"),
        ("webhooks", ["https://example.com", "https://example.com"], "must not be given twice"),
        ("webhooks", [{"url": "https://example.com", "kinds": []}], "unknown key 'kinds' of a webhook: the keys are"),
        (
            "advertise",
            "http://example.com/x?y",
            "not an address: 'http://example.com/x?y': the address contains a query",
        ),
        ("advertise", "0.0.0.0", "the host stands for all addresses of a machine"),
    ],
)
def test_error_for_a_refused_webhook_or_address_names_the_mistake_and_no_password(
    key: str, value: object, words: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=re.escape(words)) as raised:
        ClusterConfig(**{key: value})
    assert str(raised.value).startswith(ClusterConfig.options[key].label)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tls_cert": "c"}, "must be given together"),
        ({"client_ca": "c"}, "--client-ca needs"),
        ({"workers": 2, "engine": "ray"}, "--workers applies to --engine local only"),
        ({"slurm_options": ["--time=1"]}, "--slurm-option applies to --engine slurm only"),
        ({"ray_address": "h:1", "engine": "slurm"}, "--ray-address applies to --engine ray only"),
    ],
)
def test_configuration_options_that_contradict_each_other_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        ClusterConfig(**options)


def test_paths_in_a_configuration_file_are_relative_to_the_file(tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text('state_dir = "state"\ntls_cert = "c.pem"\nlease = "2m"\nport = 0\nlabels = ["zone=a"]\n')
    assert read_config_file(file) == {
        "state_dir": tmp_path / "state",
        "tls_cert": str(tmp_path / "c.pem"),
        "lease": 120.0,
        "port": 0,
        "labels": ("zone=a",),
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("keep-logs = 1", r"unknown key 'keep-logs': did you mean 'keep_logs'\?"),
        ("answer = 42", "unknown key 'answer': the keys are state_dir, host,"),
        ('lease = "soon"', "lease: expected a time of 1s or more, such as .*, got 'soon'"),
        ("port = 1.5", "port: expected a whole number from 0 to 65535, got 1.5"),
        ("port = ", "is not valid TOML: "),
    ],
)
def test_error_for_a_mistake_in_a_configuration_file_names_file_and_key(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text(text)
    with pytest.raises(InvalidArgumentError, match=words) as raised:
        read_config_file(file)
    assert str(raised.value).startswith(str(file))


def test_error_for_an_unreadable_configuration_file_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(FailedPreconditionError, match=r"cannot read the configuration file .*/none.toml: No such file"):
        read_config_file(tmp_path / "none.toml")


def test_configuration_of_another_release_is_read_without_unknown_options() -> None:
    document = {"lease": "2m", "port": 1, "max_jobs_per_user": 0, "enforce": "", "labels": "a=b", "future": 1}
    assert known_options(document) == {"lease": 120.0, "port": 1}


def test_workers_get_only_the_options_for_workers() -> None:
    config = ClusterConfig(lease="2m", enforce="watch", max_processes=0, port=0, log_level="debug")
    assert config.worker_json() == '{"enforce": "watch", "max_processes": 0, "log_level": "debug"}'


def test_configuration_page_lists_each_option_with_flag_and_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| .*? \| (.*?) \|$", PAGE.read_text(), re.MULTILINE)
    plain = {name: (flag.strip("`"), default.replace("`", "")) for name, flag, default in rows}
    assert plain == {
        name: (option.flag or "only in the file", option.default_text) for name, option in ClusterConfig.options.items()
    }


def test_configuration_page_explains_each_option() -> None:
    assert set(re.findall(r"^\* `(\w+)`: ", PAGE.read_text(), re.MULTILINE)) == set(ClusterConfig.options)


def test_example_on_the_configuration_page_is_valid(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```toml\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "cluster.toml").write_text(example)
    ClusterConfig(**read_config_file(tmp_path / "cluster.toml"))


def test_configuration_page_lists_each_event_that_the_code_writes() -> None:
    source = Path(__file__).parents[2] / "src"
    written = {
        event
        for path in source.rglob("*.py")
        for event in re.findall(r'log_event\(\s*_log,\s*"([a-z.]+)"', path.read_text())
    }
    assert len(written) > 10
    assert sorted(event for event in written if f"`{event}`" not in PAGE.read_text()) == []
