"""`iris run`."""

from __future__ import annotations

import contextlib
import os
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import click

from iris.cli.cluster.connect import Connection, connect_or_embed
from iris.cli.options import (
    COUNT,
    DURATION,
    JOB_NAME,
    LABEL,
    LIMIT,
    PORT_NAME,
    POSITIVE_COUNT,
    SIZE,
    VARIABLE,
    address_option,
    json_option,
)
from iris.cli.output.printer import Output
from iris.cli.output.upload_display import show_progress
from iris.cli.standard_input import Feeder, is_input, note_unread
from iris.cluster.types import ResourceSpec
from iris.errors import FailedPreconditionError

if TYPE_CHECKING:
    from iris.client.shell_environment import Surroundings

_HELP = """\
Run COMMAND as a job, show its lines as they come, and exit with its exit code.

\b
  iris run -- python train.py --lr 0.1
  iris run --replicas 4 --cpu 1 -- python train.py     each task knows IRIS_TASK_INDEX and IRIS_NUM_TASKS
  iris run --replicas 16 --gpu 1 --spread -- python train.py     each on a machine of its own
  iris run --replicas 4 --rendezvous torch --retries 3 -- python train.py     with torch.distributed
  iris run --port http -- sh -c 'serve $IRIS_PORT_HTTP'
  iris run --detach --name nightly -- ./nightly.sh

Which cluster: --address, or IRIS_CONTROLLER_ADDRESS, or the one of 'iris up', or else one that lives
as long as this command.

Where it runs: on a cluster of this machine, in the current folder itself, with the environment of this shell.
On another cluster, and on Ray and Slurm, in a copy of the current folder (without what .gitignore
names), with the environment of its workers. With --workspace DIR, in a copy of DIR in any case. Links that
lead out of the folder, and what you may not read, are left out with a notice; --no-workspace sends nothing.

Standard input goes to the task, where there is one; several tasks, and a detached job, have none. A task that is
tried again after it has read some of it has none either, and its log says so.

Ctrl-C stops the job when the cluster lives for this command only; a second one stops it at once. On another
cluster it only ends the watching.

The exit code is the one of the first task that failed, 128+n when signal n ended it; 143 when the job was
killed, 130 after Ctrl-C, 1 when it could not run at all.
"""


@click.command(
    help=_HELP,
    short_help="Run a command as a job, and show its lines.",
    # Options end where the command begins, so that it may have its own without '--'.
    context_settings={"allow_interspersed_args": False},
)
@click.option("--replicas", metavar="N", type=POSITIVE_COUNT, default=1, help="How many tasks; default 1.")
@click.option("--cpu", metavar="N", type=COUNT, default=0, help="Cores that each task needs.")
@click.option("--memory", type=SIZE, default=0, help="Memory that each task needs, and may use: 512MB, 2GiB.")
@click.option("--gpu", metavar="N", type=COUNT, default=0, help="GPUs that each task needs.")
@click.option("--env", type=VARIABLE, multiple=True, help="A variable for the tasks; may be given several times.")
@click.option(
    "--port",
    "ports",
    type=PORT_NAME,
    multiple=True,
    help="A free port for each task, in IRIS_PORT_<NAME>; may be given several times.",
)
@click.option("--name", type=JOB_NAME, help="The job's id; default: made from the command.")
@click.option(
    "--max-task-failures",
    metavar="N",
    type=COUNT,
    default=0,
    help="How many tasks may fail before the job does; default 0.",
)
@click.option(
    "--retries",
    metavar="N",
    type=COUNT,
    default=0,
    help="How often a task that fails is tried again; default 0.",
)
@click.option(
    "--retry-pause",
    type=DURATION,
    default=1.0,
    help="Before the second retry in a row, then doubled up to 60s; default 1s, 0 for none. The first comes at once.",
)
@click.option("--timeout", type=LIMIT, default=0.0, help="How long an attempt may run: 90s, 10m, 2h; default for ever.")
@click.option(
    "--job-timeout", type=LIMIT, default=0.0, help="How long the whole job may take from now on; default for ever."
)
@click.option("--scheduling-timeout", type=LIMIT, default=0.0, help="How long it may wait for room; default for ever.")
@click.option(
    "--workspace",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False),
    help="Send this folder along; each task runs in a copy of it.",
)
@click.option(
    "--no-workspace",
    is_flag=True,
    help="Send no folder along: where a copy of the current folder would be sent, tasks start in an empty one.",
)
@click.option("--spread", is_flag=True, help="Give each task a machine that no other task of the job has.")
@click.option("--together", is_flag=True, help="Put all tasks on one machine.")
@click.option(
    "--constraint",
    "constraints",
    type=LABEL,
    multiple=True,
    help="A label that a machine must have to get a task; may be given several times.",
)
@click.option(
    "--rendezvous",
    type=click.Choice(["torch", "jax"]),
    help="Tell tasks where they meet: RANK, WORLD_SIZE, MASTER_ADDR and so on, or JAX_COORDINATOR_ADDRESS and so on.",
)
@click.option("--independent", is_flag=True, help="Tasks start and are retried one by one, instead of all together.")
@click.option("--detach", is_flag=True, help="Print the job's id, and leave.")
@json_option(
    "JSON lines on stdout: the tasks' lines as in 'iris logs --json', and objects with an \"event\":"
    " submitted, notice, ended."
)
@address_option
@click.argument("command", metavar="COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
def run(
    *,
    replicas: int,
    cpu: int,
    memory: int,
    gpu: int,
    env: tuple[tuple[str, str], ...],
    ports: tuple[str, ...],
    name: str | None,
    max_task_failures: int,
    retries: int,
    retry_pause: float,
    timeout: float,
    job_timeout: float,
    scheduling_timeout: float,
    workspace: str | None,
    no_workspace: bool,
    spread: bool,
    together: bool,
    constraints: tuple[tuple[str, str], ...],
    rendezvous: Literal["torch", "jax"] | None,
    independent: bool,
    detach: bool,
    as_json: bool,
    address: str | None,
    command: tuple[str, ...],
) -> int:
    """See `_HELP`."""
    output = Output(as_json=as_json, stderr_apart=True)
    if workspace is not None and no_workspace:
        raise click.UsageError("--workspace and --no-workspace exclude each other")
    if spread and together:
        raise click.UsageError("--spread and --together exclude each other")
    if independent and (spread or together):
        raise click.UsageError("--independent tasks are placed one by one: --spread and --together need a gang")
    if independent and rendezvous:
        raise click.UsageError("--independent tasks never meet: --rendezvous needs a gang")
    if max_task_failures and rendezvous:
        raise click.UsageError("--rendezvous needs all tasks: --max-task-failures must be 0")
    with connect_or_embed(address) as connection:
        if detach and connection.place == "embedded":
            raise FailedPreconditionError("there is no cluster that the job could go on in: run 'iris up' first")
        folder = _folder(connection, workspace)
        feeds = replicas == 1 and not detach and is_input()
        if not feeds:
            note_unread(
                output, "the command ends before a detached job does" if detach else "it would go to one task only"
            )
        job = connection.client.run(
            command,
            name=name,
            replicas=replicas,
            resources=ResourceSpec(cpu=cpu, memory=memory, gpu=gpu),
            env=dict(env),
            ports=ports,
            workspace=workspace or (None if folder or no_workspace else _current_folder()),
            working_directory=folder,
            coscheduled=not independent,
            placement="spread" if spread else "together" if together else None,
            constraints=dict(constraints),
            rendezvous=rendezvous,
            max_task_failures=max_task_failures,
            max_retries_failure=retries,
            retry_pause=retry_pause,
            scheduling_timeout=scheduling_timeout,
            timeout=timeout,
            job_timeout=job_timeout,
            on_notice=output.note,
            on_progress=show_progress(output),
            surroundings=replace(_surroundings(connection, output), stdin=feeds),
        )
        output.set_status("")
        submitted = {"job_id": job.job_id, "address": connection.client.cluster.controller_address}
        if detach:
            output.answer(submitted, lambda: job.job_id)
            output.note(f"its lines: iris logs -f{connection.options} {shlex.quote(job.job_id)}")
            return 0
        output.event({"event": "submitted", **submitted})
        if connection.place != "embedded":
            output.note(f"job {job.job_id} at {submitted['address']}")
        from iris.cli.attach import attach

        with Feeder(connection, job.job_id, output) if feeds else contextlib.nullcontext():
            return attach(connection, job, replicas, output)


def _folder(connection: Connection, workspace: str | None) -> str | None:
    """The folder on the workers' machine to run in; None: a copy of one that is sent."""
    return None if connection.place == "elsewhere" or workspace else _current_folder()


def _surroundings(connection: Connection, output: Output) -> Surroundings:
    """What runs on this machine is to find what it would find when it was run by hand: the programs of this shell's
    virtual environment, not those of the shell in which `iris up` was. A temporary cluster has it all from us."""
    from iris.client.shell_environment import Surroundings

    if connection.place != "here":
        return Surroundings()
    own = Surroundings.of_this_process()
    if own.left_out:
        names = ", ".join(repr(name) for name in own.left_out)
        output.note(f"left out of the environment, since names or values are not valid text: {names}")
    return own


def _current_folder() -> str:
    """As the shell calls it, which may be by a link."""
    try:
        folder = os.getcwd()
    except FileNotFoundError:
        raise FailedPreconditionError("the current folder is gone: change into another, or give --workspace") from None
    called = os.environ.get("PWD", "")
    with contextlib.suppress(OSError):
        if os.path.isabs(called) and os.path.samefile(called, folder):
            return called
    return folder
