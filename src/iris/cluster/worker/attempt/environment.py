"""The environment variables of a task's process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from iris.cluster.types import HOSTS_VARIABLE, TOKEN_VARIABLE
from iris.cluster.worker.attempt.attempt_record import Attempt
from iris.cluster.worker.attempt.framework_variables import rendezvous_variables
from iris.tracing.context import PARENT_VARIABLE, STATE_VARIABLE


def usable_variables(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables of this process that can be passed on to a new process.

    Variables with an empty name are left out, because a process cannot be started with such a variable. The program
    that started this process may have set one.
    """
    return {name: value for name, value in env.items() if name and "=" not in name}


@dataclass(frozen=True)
class TaskEnvironment:
    """The environment variables that this worker sets for every task.

    Attributes:
        worker_id: The id of this worker.
        base: The variables with which a task's environment begins, unless its job brings a complete environment. See
            `usable_variables`.
        own: The variables that every task of this worker needs to call the controller by TLS.
        bind_host: The address to which tasks bind.
        advertise_host: The address at which others reach the tasks.
    """

    worker_id: str
    base: Mapping[str, str]
    own: Mapping[str, str]
    bind_host: str
    advertise_host: str

    def build(self, attempt: Attempt, controller_address: str) -> dict[str, str]:
        """Return the environment of an attempt. The user's variables override the worker's variables, and Iris's
        variables override both.

        If a job brings a complete environment, the environment has none of the worker's variables. For example, a job
        of `iris run` on the same machine brings the environment of the user's shell.
        """
        request, given = attempt.request, attempt.request.environment
        # Without PYTHONUNBUFFERED, the output of a Python program would arrive in pieces of 8 KiB.
        env = {"PYTHONUNBUFFERED": "1"}
        if not given.complete:
            env |= self.base
            env.pop("OLDPWD", None)
        devices = list(request.visible_devices) or [str(number) for number in request.gpu_ids]
        # A task without allocated GPUs keeps the value of CUDA_VISIBLE_DEVICES that the engine gave to this worker.
        allocated = {"CUDA_VISIBLE_DEVICES": ",".join(devices)} if devices else {}
        env |= allocated
        env.update(given.env_vars)
        if given.complete:
            # A complete environment contains the CUDA_VISIBLE_DEVICES of the user's shell. The allocated GPUs replace
            # that value.
            env |= allocated
        # The user's token must not reach tasks. If this worker itself runs in a task, the variables with the ports of
        # that task must not reach tasks either.
        for name in [name for name in env if name.startswith("IRIS_PORT_") or name in (TOKEN_VARIABLE, HOSTS_VARIABLE)]:
            del env[name]
        # The job's own trace replaces the trace of the program that started this worker.
        if request.traceparent:
            env.pop(STATE_VARIABLE, None)
        env |= self.own
        env |= self._variables_of_iris(attempt, controller_address)
        return env

    def _variables_of_iris(self, attempt: Attempt, controller_address: str) -> dict[str, str]:
        request = attempt.request
        env = {
            "PWD": str(attempt.working_directory),
            "IRIS_JOB_ID": request.job_id,
            "IRIS_TASK_ID": request.task_id,
            "IRIS_TASK_INDEX": str(attempt.seen_task_index),
            "IRIS_NUM_TASKS": str(request.seen_num_tasks if request.HasField("seen_num_tasks") else request.num_tasks),
            "IRIS_ATTEMPT_ID": str(request.attempt_id),
            "IRIS_WORKER_ID": self.worker_id,
            "IRIS_CONTROLLER_ADDRESS": controller_address,
            "IRIS_BIND_HOST": self.bind_host,
            "IRIS_ADVERTISE_HOST": self.advertise_host,
        }
        env |= rendezvous_variables(request)
        if request.hosts:
            env[HOSTS_VARIABLE] = str(attempt.directory.hosts)
        if request.outputs:
            env["IRIS_OUTPUT_DIR"] = str(attempt.working_directory / request.outputs[0])
        if attempt.input_text is not None:
            env["IRIS_INPUT"] = attempt.input_text
        if request.traceparent:
            env[PARENT_VARIABLE] = request.traceparent
            if request.tracestate:
                env[STATE_VARIABLE] = request.tracestate
        if request.token:
            env[TOKEN_VARIABLE] = request.token
        return env | {f"IRIS_PORT_{name.upper()}": str(port) for name, port in attempt.ports.items()}
