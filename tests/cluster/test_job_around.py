"""Code inside a job: its token says whose it is, and its endpoints end with their attempt."""

from __future__ import annotations

import pytest
from support.cluster import unique, wait_for_end
from support.waiting import wait_until

from iris.client import IrisClient
from iris.cluster.client.task_token import task_of_token
from iris.errors import NotFoundError


@pytest.mark.parametrize("spelling", ["http://localhost:{port}", "LOCALHOST:{port}", "127.1:{port}", "http://{host}/"])
def test_job_submitted_inside_a_job_by_another_spelling_of_the_address_is_a_child(
    client: IrisClient, spelling: str
) -> None:
    def submit(spelling: str) -> str:
        import os
        from urllib.parse import urlsplit

        from iris.client import IrisClient

        netloc = urlsplit(os.environ["IRIS_CONTROLLER_ADDRESS"]).netloc
        address = spelling.format(port=netloc.rpartition(":")[2], host=netloc)
        with IrisClient.remote(address) as inner:
            job = inner.run(["true"], name="child")
            job.wait()
            inner.register_endpoint(f"{job.job_id}-endpoint", "h:1")
            return job.job_id

    name = unique("parent")
    job = client.run(submit, args=[spelling], name=name)
    job.wait()
    assert job.results() == [f"{name}/child"]


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "e30.e30.e30", "..", "a.!!.c", "a.bnVsbA.c"])
def test_token_without_the_task_role_belongs_to_no_task(token: str) -> None:
    assert task_of_token(token) is None


def test_endpoint_of_an_attempt_ends_with_the_attempt_while_its_job_is_retried(client: IrisClient) -> None:
    name = unique("endpoint")

    def serve(name: str) -> None:
        import os
        import time

        from iris.client import IrisClient

        with IrisClient.remote() as inner:
            if os.environ["IRIS_ATTEMPT_ID"] == "0":
                inner.register_endpoint(name, "first:1")
                inner.lookup_endpoint(name)
                raise SystemExit(1)
            assert not inner.list_endpoints(name)
            inner.register_endpoint(name, "second:1")
            time.sleep(600)

    job = client.run(serve, args=[name], max_retries_failure=1)
    endpoint = wait_until(lambda: (found := client.list_endpoints(name)) and found[0].address == "second:1" and found)
    assert (endpoint[0].task_index, endpoint[0].attempt_id) == (0, 1)
    client.terminate(job.job_id)
    wait_for_end(client.cluster, job.job_id)
    with pytest.raises(NotFoundError):
        client.lookup_endpoint(name)


def test_endpoint_name_of_an_ended_attempt_is_free_for_other_jobs(client: IrisClient) -> None:
    name = unique("endpoint")

    def register(name: str) -> None:
        from iris.client import IrisClient

        with IrisClient.remote() as inner:
            inner.register_endpoint(name, "gone:1")

    first = client.run(register, args=[name])
    first.wait()
    with pytest.raises(NotFoundError):
        client.lookup_endpoint(name)
    endpoint_id = client.register_endpoint(name, "mine:1")
    assert client.lookup_endpoint(name).address == "mine:1"
    client.unregister_endpoint(endpoint_id)
