"""Defines `ClusterConfig`: the options of a cluster, each with its default, help text, and accepted values.

The command line passes one `ClusterConfig` to the server, and the server passes the options for workers to each worker.
The options are passed as JSON, with the same keys and values as in the TOML file.
"""

from __future__ import annotations

import difflib
import json
import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

from iris.cluster.lease_terms import DEFAULT_LEASE_S
from iris.cluster.types import MAX_LOCAL_WORKERS
from iris.config import kinds
from iris.config.webhook_option import WEBHOOKS, WebhookOption
from iris.errors import InvalidArgumentError, quoted
from iris.event_kinds import JOB_ENDS

DEFAULT_PORT = 50051
DEFAULT_MAX_LOG_BYTES = 10 << 30
LOCAL_ENGINE = "local"


@dataclass(frozen=True, slots=True)
class Option:
    """The definition of one option.

    Attributes:
        name: The key in the TOML file, and the attribute of `ClusterConfig`.
        kind: The object that parses a value of the option, and writes the value as text.
        default: The value if none is given.
        help: The help text, in sentences.
        flag: The option's name on the command line of `iris up`. Empty if only the file has the option.
        default_text: The default as the help shows it.
        engine: The only engine for which the option has an effect. Empty if the option has an effect for every engine.
        for_workers: Whether workers need the option.
    """

    name: str
    kind: kinds.Kind
    default: Any
    help: str
    flag: str
    default_text: str
    engine: str
    for_workers: bool

    def read(self, value: object) -> Any:
        """Check a value that a user has given for this option, and return the parsed value.

        Raises:
            InvalidArgumentError: The option does not accept the value.
        """
        if value is None and self.default is None:
            return None
        try:
            return self.kind.read(value)
        except kinds.NamedMistakeError:
            raise
        except ValueError:  # InvalidArgumentError is caught here, too, because it is a subclass of ValueError.
            raise InvalidArgumentError(f"expected {self.kind.accepted}, got {quoted(value)}") from None

    def write(self, value: Any) -> Any:
        """Return a value of this option in the form that it has in JSON and TOML."""
        return None if value is None else self.kind.write(value)

    @property
    def label(self) -> str:
        """The option's name in messages: its flag, or its key in the TOML file if it has no flag."""
        return self.flag or self.name


def _option(
    kind: kinds.Kind,
    default: Any,
    help_text: str,
    *,
    flag: str | None = None,
    default_text: str = "",
    engine: str = "",
    for_workers: bool = False,
) -> Any:
    """Return the dataclass field of an option. If `flag` is None, the flag is made from the option's name."""
    extra = {
        "kind": kind, "help": help_text, "flag": flag, "default_text": default_text, "engine": engine,
        "for_workers": for_workers,
    }  # fmt: skip
    return field(default=default, metadata=extra)


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """The configuration of one cluster. `docs/reference/configuration.md` describes each option.

    Values may be given as people write them (`lease="5m"`) or as numbers in the option's unit (`lease=300`). Times are
    in seconds, sizes in bytes, and `math.inf` stands for no limit.

    Raises:
        InvalidArgumentError: A value is not accepted, or two options contradict each other.
    """

    options: ClassVar[dict[str, Option]]

    state_dir: Path | None = _option(
        kinds.DIRECTORY,
        None,
        "The directory for jobs, logs, keys and the event log.",
        default_text="~/.local/state/iris",
    )
    host: str = _option(kinds.HOST, "127.0.0.1", "The address to bind to.")
    port: int = _option(kinds.whole_number(0, 65535), DEFAULT_PORT, "The port to listen on. 0 takes any free port.")
    advertise: str = _option(
        kinds.ADDRESS,
        "",
        "The address at which workers, tasks and clients reach the controller: HOST; HOST:PORT for a forwarded port;"
        " or the URL of a proxy or load balancer.",
        default_text="the value of --host, or an address of this machine if --host is 0.0.0.0 or ::",
    )
    engine: str = _option(
        kinds.one_of(LOCAL_ENGINE, "ray", "slurm"),
        LOCAL_ENGINE,
        "Where tasks run: on this machine (local), on the Ray cluster that this machine belongs to (ray), or on the"
        " Slurm cluster to which this machine may submit jobs (slurm).",
    )
    workers: int | None = _option(
        kinds.whole_number(1, MAX_LOCAL_WORKERS),
        None,
        "How many workers share this machine.",
        default_text="1",
        engine=LOCAL_ENGINE,
    )
    labels: tuple[str, ...] = _option(
        kinds.LABELS,
        (),
        "A label of this machine, for 'iris run --constraint'. May be given several times.",
        flag="--label",
        default_text="none",
        engine=LOCAL_ENGINE,
    )
    ray_address: str = _option(
        kinds.TEXT,
        "auto",
        "The address of the head of the Ray cluster, as HOST:PORT. 'auto' finds the Ray that runs on this machine.",
        engine="ray",
    )
    slurm_options: tuple[str, ...] = _option(
        kinds.WORDS,
        (),
        "An option for Slurm's sbatch, as in '--slurm-option=--partition=gpu'. May be given several times.",
        flag="--slurm-option",
        default_text="none",
        engine="slurm",
    )
    lease: float = _option(
        kinds.span(1),
        DEFAULT_LEASE_S,
        "How long a worker may run tasks without an answer from the controller. After that its tasks are ended, and"
        " are retried on another worker.",
    )
    watch_hang: float = _option(
        kinds.span(1, "never"),
        math.inf,
        "A job seems to hang if one of its tasks neither writes output nor uses the CPU for this long. Jobs that"
        " set no such time themselves use this time. 'never' means that these jobs are not watched.",
        default_text="never",
    )
    keep_logs: float = _option(
        kinds.span(0, "forever"),
        30 * 86400.0,
        "How long the log of an attempt is kept after the attempt has ended, or 'forever'.",
        for_workers=True,
    )
    keep_log_bytes: float = _option(
        kinds.size("unlimited"),
        50 * 10**9,
        "How many bytes of logs this machine keeps before it removes the oldest logs, or 'unlimited'.",
    )
    keep_jobs: float = _option(
        kinds.span(0, "forever"),
        math.inf,
        "How long a job is kept after it has ended, or 'forever'. Older jobs are removed with their logs and results.",
        default_text="forever",
    )
    keep_jobs_count: float = _option(
        kinds.count_or("unlimited"),
        math.inf,
        "How many ended jobs are kept, or 'unlimited'. The jobs that ended first are removed first.",
        default_text="unlimited",
    )
    max_bytes_per_user: float = _option(
        kinds.size("unlimited"),
        20 * 10**9,
        "How many bytes of entry points, workspaces and results are stored for one user, or 'unlimited'. Above the"
        " limit, the data of the user's oldest ended jobs is dropped.",
    )
    max_log_bytes: int = _option(
        kinds.size(),
        DEFAULT_MAX_LOG_BYTES,
        "How many bytes of one attempt's log are kept if the job sets no limit. The oldest bytes are removed first.",
        for_workers=True,
    )
    max_output_bytes: float = _option(
        kinds.size("unlimited"),
        10**9,
        "How many bytes of outputs ('iris run --output') one attempt may leave, or 'unlimited'. Larger outputs are not"
        " stored.",
    )
    max_stored_output_bytes: float = _option(
        kinds.size("unlimited"),
        20 * 10**9,
        "How many bytes of outputs this machine stores, or 'unlimited'. Further outputs are not stored until jobs are"
        " removed.",
    )
    log_location: str = _option(
        kinds.URL,
        "",
        "Copy complete logs to this URL, such as 's3://bucket/logs' or 'file:///mnt/logs'. Needs the extra [storage].",
        default_text="none",
    )
    enforce: Literal["auto", "watch", "none"] = _option(
        kinds.one_of("auto", "watch", "none"),
        "auto",
        "How limits of tasks are enforced. 'auto' uses cgroups where possible. Otherwise the worker measures the tasks"
        " and ends tasks that exceed their limits. 'watch' always lets the worker measure. 'none' enforces no limits.",
        for_workers=True,
    )
    max_processes: int | None = _option(
        kinds.whole_number(0),
        None,
        "How many processes and threads one task may have. 0 sets no limit.",
        default_text="half of what its worker may have",
        for_workers=True,
    )
    max_jobs_per_user: int = _option(
        kinds.whole_number(1), 10_000, "The largest number of unfinished jobs of one user."
    )
    max_tasks_per_user: int = _option(
        kinds.whole_number(1),
        100_000,
        "The largest number of tasks in the unfinished jobs of one user, all jobs together.",
    )
    max_streams_per_user: int = _option(
        kinds.whole_number(1),
        2000,
        "The largest number of open streams of one user. Each follow of a log and each watch of a job is a stream.",
    )
    tls_cert: str = _option(
        kinds.FILE,
        "",
        "Serve TLS with the certificate, or chain of certificates, in this PEM file. Needs --tls-key.",
        default_text="none",
        for_workers=True,
    )
    tls_key: str = _option(
        kinds.FILE, "", "The PEM file with the private key of --tls-cert.", default_text="none", for_workers=True
    )
    client_ca: str = _option(
        kinds.FILE,
        "",
        "Accept only clients that show a certificate which one of the certificates in this PEM file has signed.",
        default_text="none",
        for_workers=True,
    )
    insecure_no_tls: bool = _option(
        kinds.SWITCH,
        False,
        "Serve other machines without TLS. Anyone who sees the traffic can read it, tokens included, and can then run"
        " programs as you. Use this only on a network that you trust.",
        default_text="false",
        for_workers=True,
    )
    no_forward: bool = _option(
        kinds.SWITCH,
        False,
        "Do not let users reach ports of their tasks through the controller with 'iris forward'.",
        default_text="false",
    )
    metrics_port: int | None = _option(
        kinds.whole_number(0, 65535),
        None,
        "A port of the address 127.0.0.1 at which Prometheus can read the metrics of the controller without a token."
        " Every user of this machine can read them there. 0 takes any free port.",
        default_text="none",
    )
    metrics_per_job: int = _option(
        kinds.whole_number(0, 10_000),
        0,
        "For how many unfinished jobs the metrics have separate figures, with the id of the job as a label. These are"
        " the jobs that were submitted last. Each job adds ten series to Prometheus.",
    )
    no_exec: bool = _option(
        kinds.SWITCH,
        False,
        "Do not let users run commands in their tasks with 'iris exec' and 'iris shell'.",
        default_text="false",
    )
    exec_idle: float = _option(
        kinds.span(1.0, "never"),
        12 * 3600.0,
        "End a command of 'iris exec' or 'iris shell' that has neither read nor written a byte for this time, or"
        " 'never'.",
    )
    exec_limit: float = _option(
        kinds.span(1.0, "never"),
        7 * 24 * 3600.0,
        "End a command of 'iris exec' or 'iris shell' after this time, or 'never'.",
    )
    allow_origins: tuple[str, ...] = _option(
        kinds.ORIGINS,
        (),
        "Let web pages of this origin call the cluster, for example https://app.example.com. May be given several"
        " times.",
        flag="--allow-origin",
        default_text="none",
        for_workers=True,
    )
    webhooks: tuple[WebhookOption, ...] = _option(
        WEBHOOKS,
        (),
        "Send events to this URL, as signed requests. May be given several times. The file can choose the kinds of"
        " events for each URL.",
        flag="--webhook",
        default_text="none",
    )
    webhook_events: tuple[str, ...] = _option(
        kinds.EVENTS,
        JOB_ENDS,
        "The kinds of events that webhooks get, separated by commas, such as 'job.failed,worker.lost' or 'job.*'.",
        default_text="all ends of jobs",
    )
    webhook_secret_file: str = _option(
        kinds.FILE,
        "",
        "The file with the secret that signs the requests to webhooks, at least 16 characters. Without it, the variable"
        " IRIS_WEBHOOK_SECRET has the secret, or the controller makes a secret in the file webhook.secret of the state"
        " directory.",
        default_text="none",
    )
    otlp_endpoint: str = _option(
        kinds.COLLECTOR,
        "",
        "Send traces of jobs to this OpenTelemetry collector, by OTLP over HTTP, such as 'http://localhost:4318'. Needs"
        " the extra [otel]. Without it, the variable OTEL_EXPORTER_OTLP_ENDPOINT names the collector.",
        default_text="none",
    )
    keep_events: int = _option(
        kinds.whole_number(1_000, 10_000_000),
        100_000,
        "How many events of the cluster are kept, for 'iris events' and for webhooks. The oldest are removed.",
    )
    log_level: str = _option(
        kinds.one_of("debug", "info", "warning"),
        "info",
        "What the event logs of the controller and its workers contain: also each call (debug), each change of the"
        " state of a job, gang, attempt, worker or lease (info), or only problems (warning).",
        flag="",
        for_workers=True,
    )
    log_format: str = _option(
        kinds.one_of("text", "json"),
        "text",
        "The format of the event logs: a line of text, or a JSON object, for each event.",
        flag="",
        for_workers=True,
    )
    event_log_bytes: int = _option(
        kinds.size(),
        10 * 10**6,
        "How large an event log may become before it is rotated: server.log becomes server.log.1, and so on.",
        flag="",
        for_workers=True,
    )
    event_log_files: int = _option(
        kinds.whole_number(1, 1000), 4, "How many rotated files of each event log are kept.", flag="", for_workers=True
    )

    def __post_init__(self) -> None:
        for name, option in self.options.items():
            try:
                object.__setattr__(self, name, option.read(getattr(self, name)))
            except InvalidArgumentError as error:
                raise InvalidArgumentError(f"{option.label}: {error}") from None
        for option in self.options.values():
            if option.engine not in ("", self.engine) and getattr(self, option.name) != option.default:
                raise InvalidArgumentError(
                    f"{option.label} applies to --engine {option.engine} only,"
                    f" but this cluster uses --engine {self.engine}"
                )
        if bool(self.tls_cert) != bool(self.tls_key):
            raise InvalidArgumentError("--tls-cert and --tls-key must be given together")
        if self.client_ca and not self.tls_cert:
            raise InvalidArgumentError("--client-ca needs --tls-cert and --tls-key")

    @property
    def num_workers(self) -> int:
        """The number of permanent workers. 0 if the engine starts a worker for each slot instead."""
        return (self.workers or 1) if self.engine == LOCAL_ENGINE else 0

    def to_document(self) -> dict[str, Any]:
        """Return the values of all options as one JSON object, with the keys of the TOML file."""
        return {name: option.write(getattr(self, name)) for name, option in self.options.items()}

    def to_json(self) -> str:
        """Return the configuration as JSON, which `from_json` reads."""
        return json.dumps(self.to_document())

    def worker_json(self) -> str:
        """Return the options for workers as JSON. Options with their default value are left out."""
        given = {
            name: option.write(getattr(self, name))
            for name, option in self.options.items()
            if option.for_workers and getattr(self, name) != option.default
        }
        return json.dumps(given)

    @classmethod
    def from_json(cls, text: str) -> ClusterConfig:
        """Return the configuration that a JSON object describes.

        Raises:
            InvalidArgumentError: The text is not a JSON object, or has an unknown key or a value that is not accepted.
        """
        try:
            content = json.loads(text)
        except ValueError as error:
            raise InvalidArgumentError(f"the configuration is not valid JSON: {error}") from None
        if not isinstance(content, dict):
            raise InvalidArgumentError(f"the configuration must be a JSON object, got {quoted(content)}")
        for name in content:
            cls.check_key(name)
        return cls(**content)

    @classmethod
    def check_key(cls, name: str) -> None:
        """Refuse a key that is not the name of an option.

        Raises:
            InvalidArgumentError: There is no option with this name.
        """
        if name in cls.options:
            return
        near = difflib.get_close_matches(name.replace("-", "_"), cls.options, n=1)
        advice = f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(cls.options)}"
        raise InvalidArgumentError(f"unknown key {quoted(name)}: {advice}")


ClusterConfig.options = {
    item.name: Option(
        name=item.name,
        kind=item.metadata["kind"],
        default=item.default,
        help=item.metadata["help"],
        flag="--" + item.name.replace("_", "-") if item.metadata["flag"] is None else item.metadata["flag"],
        default_text=item.metadata["default_text"]
        or ("" if item.default is None else str(item.metadata["kind"].write(item.default))),
        engine=item.metadata["engine"],
        for_workers=item.metadata["for_workers"],
    )
    for item in fields(ClusterConfig)
}
