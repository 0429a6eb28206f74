"""`iris run`."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from iris.cli.cluster.connect import Connection, connect_or_embed
from iris.cli.cluster.lookup import Lookup
from iris.cli.commands.submission.option_checks import check_exclusions, check_name, check_profiler
from iris.cli.commands.submission.surroundings import current_folder, surroundings_of
from iris.cli.completion import complete_file
from iris.cli.environment_options import all_variables
from iris.cli.exit_codes import JobCodeCommand
from iris.cli.input_options import read_lines
from iris.cli.job_files.job_file import (
    defaults_of,
    given_entries,
    read_job_file,
    variables_of,
    with_absolute_paths,
    write_job_file,
)
from iris.cli.options import (
    ARRAY,
    CORES,
    COUNT,
    DEPENDENCY,
    DURATION,
    ENV_FILE,
    EXIT_CODE,
    JOB_NAME,
    LABEL,
    LIMIT,
    PORT_NAME,
    POSITIVE_COUNT,
    SIZE,
    VARIABLE,
    address_option,
    given_context,
    json_option,
    refused_options,
)
from iris.cli.output.printer import Output
from iris.cli.output.upload_display import show_progress
from iris.cli.standard_input import Feeder, is_input, note_unread
from iris.cluster.types import ResourceSpec
from iris.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError

if TYPE_CHECKING:
    from iris.client import Job

_HELP = """\
Run COMMAND as a job, show the lines of its tasks while they run, and exit with the job's exit code.

\b
  iris run -- python train.py --lr 0.1
  iris run -n 4 --cpu 1 -- python train.py     each task has IRIS_TASK_INDEX and IRIS_NUM_TASKS
  iris run --replicas 16 --gpu 1 --spread -- python train.py     each task on a machine of its own
  iris run --replicas 60 --independent --max-parallel 4 -- python sweep.py     four tasks at a time
  iris run --each urls.txt -- curl -O {}     one task for each line, and the line in IRIS_INPUT
  iris run --array 0-59%4 -- python sweep.py --seed {}     a task for each number, four at a time
  iris run --replicas 4 --rendezvous torch --retries 3 -- python train.py     with torch.distributed
  iris run --port http -- sh -c 'serve $IRIS_PORT_HTTP'
  iris run --retries 3 --retry-on 75 -- ./train.sh     only exit code 75 leads to a retry
  iris run --after prepare --after clean:any -- ./train.sh     when prepare has succeeded and clean has ended
  iris run --timeout 2h --timeout-warning 60s -- python train.py     SIGUSR1 a minute before the end
  iris run --output out -- python train.py     the files in ./out are stored; see them with 'iris outputs'
  iris run -f job.toml --replicas 8     the options and the command of a job file, with 8 tasks
  iris run -d --name nightly -e WANDB_API_KEY --env-file job.env -- ./nightly.sh

The job runs on the cluster of --address or --context, or else of IRIS_CONTROLLER_ADDRESS, of IRIS_CONTEXT, of the
current context ('iris login'), or of 'iris up' on this machine. Without any of these, a cluster is started that ends
with this command.

On a cluster on this machine the command runs in the current folder, with the environment of this shell. On another
cluster, and on Ray and Slurm, it runs in a copy of the current folder, with the environment of its worker. The copy
lacks the files that .gitignore names; a notice lists links that lead out of the folder and files that cannot be read,
because they are left out too. --workspace DIR sends another folder, and --no-workspace sends none.

A job of one task gets the standard input of this command. A job of several tasks, and a detached job, get none. If an
attempt has read some of the input, the retry of its task gets no input, and the log of the task says this.

If this command has started the cluster, Ctrl-C stops the job, and a second Ctrl-C kills the job. On another cluster
Ctrl-C only stops showing the lines, and the job continues.

The exit code is the exit code of the first task that failed, or 128+n if signal n killed that task. It is 127 if the
command was not found, 126 if it is not executable, 124 if a timeout ended the job or the task, 143 if the job was
terminated, 130 after Ctrl-C, 2 if the options are invalid, and 125 if Iris itself failed or could not run the job.
"""
_MULTIPLE = "May be given several times."


_FILE, _GIVEN = "iris.job_file", "iris.given"  # Keys of `click.Context.meta`.


class _Run(JobCodeCommand):
    """The command `iris run`. It keeps the options as the user typed them, because `--save` writes them into a file."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words of the command line, as `click.Command` does."""
        if not ctx.resilient_parsing:
            ctx.meta[_GIVEN] = self.make_parser(ctx).parse_args(list(args))[0]
        return super().parse_args(ctx, args)


def _use_job_file(context: click.Context, parameter: click.Parameter, path: str | None) -> dict[str, str]:
    """Make the entries of a job file the defaults of the options, and return the environment variables of the file."""
    if path is None:
        return {}
    try:
        entries = read_job_file(Path(path), context.command)
        variables = variables_of(entries)
    except InvalidArgumentError as error:
        raise click.BadParameter(str(error), context, parameter) from None
    context.meta[_FILE] = entries
    defaults = defaults_of(entries, context.command)
    given = context.meta.get(_GIVEN, {})
    if context.find_root().obj or given_context() or given.get("address") or given.get("context"):
        for key in ("address", "context"):  # The command line has precedence over the job file.
            defaults.pop(key, None)
    context.default_map = defaults
    return variables


@click.command(
    cls=_Run,
    help=_HELP,
    short_help="Run a command as a job, and show its lines.",
    # The options of iris end at the first word of the user's command. Therefore no '--' is needed before that command.
    context_settings={"allow_interspersed_args": False},
)
@click.option(
    "--file",
    "-f",
    "job_file",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    is_eager=True,
    callback=_use_job_file,
    help="Read options and the command from this job file (TOML). Options on the command line override the file; --env"
    " adds variables.",
)
@click.option(
    "--save",
    metavar="FILE",
    type=click.Path(dir_okay=False, writable=True),
    help="Write the given options and the command to this job file, and run nothing.",
)
@click.option("--replicas", "-n", metavar="N", type=POSITIVE_COUNT, default=1, help="The number of tasks. Default: 1.")
@click.option(
    "--cpu",
    type=CORES,
    default=None,
    help="The number of cores that each task needs, such as 2, 0.25 or 250m. Default: 0, and 1 for an --independent"
    " task without --memory and --gpu.",
)
@click.option(
    "--memory", type=SIZE, default=0, help="The memory that each task needs, and may use, such as 512MB or 2GiB."
)
@click.option("--gpu", metavar="N", type=COUNT, default=0, help="The number of GPUs that each task needs.")
@click.option(
    "--env",
    "-e",
    type=VARIABLE,
    multiple=True,
    help=f"An environment variable for the tasks. NAME alone passes the value of this shell. {_MULTIPLE}",
)
@click.option(
    "--env-file",
    "env_files",
    type=ENV_FILE,
    multiple=True,
    help="A file with an environment variable in each line, as NAME=VALUE or NAME. --env overrides the file."
    f" {_MULTIPLE}",
)
@click.option(
    "--inherit-env/--no-inherit-env",
    default=True,
    help="Whether this job also gets the --env variables of its parent job, if a task of the parent job submits it."
    " Default: it does. With --no-inherit-env, such a job gets the environment of its worker and its own --env.",
)
@click.option(
    "--port",
    "ports",
    type=PORT_NAME,
    multiple=True,
    help=f"Reserve a free port for each task, and pass it in IRIS_PORT_<NAME>. {_MULTIPLE}",
)
@click.option("--name", type=JOB_NAME, help="The id of the job. Default: the command's name and a random suffix.")
@click.option(
    "--after",
    metavar="JOB[:any|ok]",  # Without `metavar`, the help would show the type's name.
    type=DEPENDENCY,
    multiple=True,
    help=f"Start the new job only when JOB has succeeded, or, with JOB:any, when JOB has ended. {_MULTIPLE}",
)
@click.option(
    "--max-task-failures",
    metavar="N",
    type=COUNT,
    default=0,
    help="How many tasks may fail before the job fails. Default: 0.",
)
@click.option(
    "--retries",
    "max_retries_failure",
    metavar="N",
    type=COUNT,
    default=0,
    help="How many times a failed task is retried. Default: 0.",
)
@click.option(
    "--retry-pause",
    type=DURATION,
    default=1.0,
    help="The pause before the second retry in a row. It doubles with each further retry, up to 60s. The first retry"
    " has no pause. Default: 1s; 0 for no pauses.",
)
@click.option(
    "--retry-on",
    type=EXIT_CODE,
    multiple=True,
    help=f"Retry only failures with this exit code. Needs --retries. {_MULTIPLE}",
)
@click.option(
    "--fail-on",
    type=EXIT_CODE,
    multiple=True,
    help=f"Never retry a failure with this exit code. Needs --retries. {_MULTIPLE}",
)
@click.option(
    "--timeout",
    type=LIMIT,
    default=0.0,
    help="How long one attempt of a task may run, such as 90s, 10m or 2h. Default: unlimited.",
)
@click.option(
    "--job-timeout", type=LIMIT, default=0.0, help="How long the job may take after its submission. Default: unlimited."
)
@click.option(
    "--timeout-warning",
    type=LIMIT,
    default=0.0,
    help="Send SIGUSR1 this long before a time limit ends an attempt, to the processes of the attempt that handle the"
    " signal. Default: never.",
)
@click.option(
    "--watch-hang",
    type=DURATION,
    help="The job seems to hang if a task neither writes output nor uses the CPU for this long. Default: the time that"
    " 'iris up --watch-hang' sets.",
)
@click.option(
    "--hang-action",
    type=click.Choice(["report", "end"]),
    default="report",
    help="What happens if the job seems to hang: 'end' lets the job fail, 'report' only changes the status of the job."
    " Default: report. 'end' needs --watch-hang, here or at 'iris up'.",
)
@click.option(
    "--scheduling-timeout", type=LIMIT, default=0.0, help="How long the job may wait in the queue. Default: unlimited."
)
@click.option(
    "--workspace",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False),
    help="Send this folder with the job. Each task runs in a copy of it.",
)
@click.option(
    "--no-workspace",
    is_flag=True,
    help="Send no folder with the job. On a cluster of other machines, the tasks then start in an empty folder.",
)
@click.option(
    "--output",
    "outputs",
    metavar="DIR",
    multiple=True,
    help="Store the files that the tasks write into this directory, below their working directory. Iris creates the"
    " directory, and IRIS_OUTPUT_DIR is the path of the first such directory. 'iris outputs' lists the files."
    f" {_MULTIPLE}",
)
@click.option(
    "--profile-memory",
    is_flag=True,
    help="Run each attempt under the memory profiler memray, which must be installed for the task's Python."
    " 'iris profile --memory' shows the result.",
)
@click.option("--spread", is_flag=True, help="Give each task a machine that no other task of the job has.")
@click.option("--together", is_flag=True, help="Put all tasks on one machine.")
@click.option(
    "--constraint",
    "constraints",
    type=LABEL,
    multiple=True,
    help=f"Run the tasks only on machines with this label. {_MULTIPLE}",
)
@click.option(
    "--rendezvous",
    type=click.Choice(["torch", "jax"]),
    help="Set the variables with which the tasks find each other: RANK, WORLD_SIZE, MASTER_ADDR and so on for torch,"
    " JAX_COORDINATOR_ADDRESS and so on for jax.",
)
@click.option(
    "--independent", is_flag=True, help="Start and retry the tasks one by one, instead of all together as a gang."
)
@click.option(
    "--each",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    help="Run an independent task for each line of FILE ('-': standard input). The line replaces {} in COMMAND, and is"
    " in IRIS_INPUT. A task that fails does not end the others. Implies --independent.",
)
@click.option(
    "--array",
    type=ARRAY,
    help="Run an independent task for each of these numbers, such as 0-59 or 1,4,10-20:2; 0-59%4 runs at most four at"
    " the same time. The number replaces {} in COMMAND, and is in IRIS_INPUT. Implies --independent.",
)
@click.option(
    "--max-parallel",
    metavar="N",
    type=POSITIVE_COUNT,
    default=None,
    help="How many of the tasks may run at the same time. Needs --independent. Default: no limit.",
)
@click.option(
    "--replace",
    is_flag=True,
    help="If a job of this --name has ended, remove it with its logs, and use the name again.",
)
@click.option(
    "--reuse",
    is_flag=True,
    help="If there is a job of this --name, show that job instead of a new one, and exit with its exit code.",
)
@click.option("--detach", "-d", is_flag=True, help="Print the id of the job, and exit without waiting for the job.")
@json_option(
    "Print JSON lines on stdout: the tasks' lines as in 'iris logs --json', and objects with an \"event\", which is"
    " submitted, notice or ended."
)
@address_option
@click.argument(
    "command",
    metavar="COMMAND...",
    nargs=-1,
    required=True,
    type=click.UNPROCESSED,
    shell_complete=complete_file,
)
def run(*, command: tuple[str, ...], detach: bool, as_json: bool, address: str | None, **options: Any) -> int:
    """See `_HELP`."""
    output = Output(as_json=as_json, stderr_apart=True)
    check_exclusions(options)
    if (path := options["save"]) is not None:
        _save(Path(path), click.get_current_context())
        return 0
    check_name(options)
    check_profiler(command, options)
    inputs = _set_inputs(options)
    with connect_or_embed(address) as connection:
        if detach and connection.place == "embedded":
            raise FailedPreconditionError("--detach needs a running cluster: start a cluster with 'iris up' first")
        has_one_task = options["replicas"] == 1 and inputs is None
        feeds = has_one_task and not detach and not options["reuse"] and is_input()
        if not feeds and options["each"] != "-":
            note_unread(
                output, "this command ends before a detached job does" if detach else "the job has more than one task"
            )
        after = _dependencies(connection, options["after"])
        job = _submit(connection, command, options, output, inputs, after=after, feeds=feeds)
        output.set_status("")
        submitted = {"job_id": job.job_id, "address": connection.client.cluster.controller_address}
        if detach:
            output.answer(submitted, lambda: job.job_id)
            output.note(f"to see its lines: iris logs -f{connection.options} {shlex.quote(job.job_id)}")
            return 0
        output.event({"event": "submitted", **submitted})
        if connection.place != "embedded":
            output.note(f"job {job.job_id} at {submitted['address']}")
        from iris.cli.attach import attach

        with Feeder(connection, job.job_id, output) if feeds else contextlib.nullcontext():
            # With --reuse, the job may be an earlier job with another number of tasks. Therefore its status is
            # requested.
            num_tasks = job.status().num_tasks if options["reuse"] else len(inputs or ()) or options["replicas"]
            return attach(connection, job, num_tasks, output)


def _set_inputs(options: dict[str, Any]) -> list[str] | None:
    """Return the inputs of --each or --array, or None without them. Set the options that --each and --array imply."""
    if options["each"] is None and options["array"] is None:
        return None
    name = "--array" if options["each"] is None else "--each"
    if options["each"] is not None and options["array"] is not None:
        raise click.UsageError("--each and --array exclude each other")
    if options["replicas"] != 1:
        raise click.UsageError(f"{name} and --replicas exclude each other: each input is one task")
    if options["spread"] or options["together"] or options["rendezvous"]:
        raise click.UsageError(f"{name} makes independent tasks: leave out --spread, --together and --rendezvous")
    if options["each"] is not None:
        with refused_options():
            inputs = read_lines(options["each"])
    else:
        inputs, limit = options["array"]
        if limit is not None and options["max_parallel"] is not None:
            raise click.UsageError("the limit after % in --array and --max-parallel exclude each other")
        options["max_parallel"] = options["max_parallel"] or limit
    options["independent"] = True
    # An input that fails must not end the tasks of the other inputs, unless the user has set a limit.
    options["max_task_failures"] = options["max_task_failures"] or len(inputs) - 1
    return inputs


def _save(path: Path, context: click.Context) -> None:
    """Write a job file with the entries of the file of `-f`, if any, and the options of the command line."""
    entries: dict[str, Any] = dict(context.meta.get(_FILE, {}))
    given = with_absolute_paths(given_entries(context.meta[_GIVEN], context.command), Path.cwd())
    given["env"] = [*entries.get("env", []), *given.get("env", [])]
    write_job_file(path, {name: value for name, value in (entries | given).items() if value not in ([], None)})


@refused_options()
def _submit(
    connection: Connection,
    command: tuple[str, ...],
    options: Mapping[str, Any],
    output: Output,
    inputs: list[str] | None,
    *,
    after: dict[Any, Any],
    feeds: bool,
) -> Job:
    """Submit the job. If `feeds` is True, the only task of the job receives the standard input of this command. The
    argument `after` contains the jobs of `--after` with their conditions.
    """
    workspace = options["workspace"]
    folder = None if connection.place == "elsewhere" or workspace else current_folder()
    as_given = ("name", "replicas", "max_parallel", "ports", "rendezvous", "max_task_failures", "inherit_env")
    files = ("outputs", "profile_memory")
    retries = ("max_retries_failure", "retry_pause", "retry_on", "fail_on")
    timeouts = ("timeout", "job_timeout", "timeout_warning", "scheduling_timeout", "watch_hang", "hang_action")
    return connection.client.run(
        command,
        **{name: options[name] for name in (*as_given, *files, *retries, *timeouts)},
        inputs=inputs,
        resources=ResourceSpec(cpu=options["cpu"], memory=options["memory"], gpu=options["gpu"]),
        env=all_variables((options["job_file"], *options["env_files"]), options["env"]),
        after=after,
        workspace=workspace or (None if folder or options["no_workspace"] else current_folder()),
        working_directory=folder,
        coscheduled=not options["independent"],
        placement="spread" if options["spread"] else "together" if options["together"] else None,
        constraints=dict(options["constraints"]),
        if_exists="replace" if options["replace"] else "reuse" if options["reuse"] else "error",
        on_notice=output.note,
        on_progress=show_progress(output),
        surroundings=replace(surroundings_of(connection, output, inherit_env=options["inherit_env"]), stdin=feeds),
    )


def _dependencies(connection: Connection, after: tuple[tuple[str, str], ...]) -> dict[Any, Any]:
    """Return the conditions of `--after`: how each of the other jobs must end, by job id."""
    found: dict[Any, Any] = {}
    lookup = Lookup(connection.client, with_tasks=False)
    for name, condition in after:
        try:
            job_id = lookup.job(name).job_id
        except NotFoundError as error:
            if ":" in name:
                raise NotFoundError(f"{error}; the conditions of --after are JOB:ok and JOB:any") from None
            raise
        if found.setdefault(job_id, condition) != condition:
            raise click.UsageError(f"--after names job {job_id} with two different conditions")
    return found
