"""Contains the methods of `IrisClient` that look inside of running tasks."""

from __future__ import annotations

from iris.arguments import JobReference, check_job_id, check_task_index
from iris.client.inspect.profile import DEFAULT_RATE, OnProgress, Profile, ProfileSum, check_profile, slices
from iris.client.inspect.stacks import JobStacks, from_answer
from iris.cluster.client.remote_client import RemoteClusterClient


class InspectMethods:
    """The methods of `IrisClient` that look inside of running tasks.

    Args:
        cluster: The low-level client of the cluster.
    """

    def __init__(self, cluster: RemoteClusterClient) -> None:
        self.cluster = cluster

    def stacks(
        self, job_id: str | JobReference, task_index: int | None = None, *, variables: bool = False
    ) -> JobStacks:
        """Return where the tasks of a job are: the call stacks of all threads of their Python processes.

        The stacks of all tasks are read at about the same time, and the tasks keep running. If the stacks of a task or
        process cannot be read, the attribute `reason` of the task or process says why, for example because it is not a
        Python program. The workers need the extra [inspect].

        Args:
            job_id: The job: its id, or its `Job` handle.
            task_index: The task. Default: all tasks.
            variables: Whether to read the values of local variables. The values may be secrets. The controller writes
                each such request to its event log.

        Returns:
            The stacks. `print(stacks)` shows a summary in which identical stacks of many tasks are merged.

        Raises:
            NotFoundError: There is no such job or task.
            PermissionDeniedError: You are neither the owner of the job nor an admin.
        """
        job_id = check_job_id(job_id)
        indices = None if task_index is None else [check_task_index(task_index)]
        return from_answer(job_id, self.cluster.read_stacks(job_id, indices, variables=variables))

    def profile(
        self,
        job_id: str | JobReference,
        task_index: int | None = None,
        *,
        duration_s: int = 10,
        rate: int = DEFAULT_RATE,
        idle: bool = False,
        on_progress: OnProgress | None = None,
    ) -> Profile:
        """Return where the tasks of a job spend their time, by sampling the call stacks of their Python processes.

        All tasks are sampled at the same time, and their samples are summed. The tasks continue meanwhile, and a
        sampled process is not stopped. The profile ends early if no task can be sampled any more, for example because
        the job has ended. The workers need the extra [inspect].

        Args:
            job_id: The job: its id, or its `Job` handle.
            task_index: The task. Default: all tasks.
            duration_s: How long to sample, in whole seconds, from 1 to 86,400 (a day).
            rate: The samples per second of each process, from 1 to 1000.
            idle: Whether to count the samples of threads that wait.
            on_progress: A function that is called as `on_progress(done_s, duration_s)` about every two seconds, with
                whole seconds.

        Returns:
            The profile. `print(profile)` shows the most frequent functions.

        Raises:
            NotFoundError: There is no such job or task.
            PermissionDeniedError: You are neither the owner of the job nor an admin.
        """
        job_id = check_job_id(job_id)
        indices = None if task_index is None else [check_task_index(task_index)]
        duration_s, rate = check_profile(duration_s, rate, on_progress)
        total = ProfileSum(job_id, rate)
        for seconds in slices(duration_s):
            answer = self.cluster.sample_stacks(job_id, indices, seconds=seconds, rate=rate, idle=idle)
            total.add(answer, seconds)
            if total.is_over:
                break
            if on_progress is not None:
                on_progress(total.seconds, duration_s)
        return total.profile()
