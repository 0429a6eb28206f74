"""The shared cluster, read with curl."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from support.cluster import launch, shell, wait_for_end

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.client.server_process import LocalServer


class Curl:
    """Runs curl against one cluster, with the token of the tests.

    Attributes:
        address: The cluster's address.
        cluster: A client of the same cluster.
    """

    def __init__(self, address: str, cluster: RemoteClusterClient) -> None:
        self.address = address
        self.cluster = cluster

    def url(self, job: str, query: str = "") -> str:
        """Return the URL of a job's log."""
        return f"{self.address}/v1/jobs/{quote(job, safe='')}/logs" + (f"?{query}" if query else "")

    def command(self, url: str, *words: str, token: str | None = None) -> list[str]:
        """Return the command that reads a URL."""
        token = os.environ["IRIS_TOKEN"] if token is None else token
        header = ["-H", f"Authorization: Bearer {token}"] if token else []
        return ["curl", "-sS", "--no-buffer", *header, *words, url]

    def __call__(self, job: str, query: str = "", *words: str) -> bytes:
        """Return what curl prints for the log of a job, after a check that curl has succeeded."""
        done = subprocess.run(self.command(self.url(job, query), *words), capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, done
        return done.stdout

    def status(self, url: str, *words: str, token: str | None = None) -> tuple[int, dict[str, str], str]:
        """Return the status, the headers and the body of an answer."""
        command = self.command(url, "-i", *words, token=token)
        done = subprocess.run(command, capture_output=True, timeout=60, check=True)
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        return int(first.split()[1]), headers, body.decode()

    def start(self, job: str, query: str = "", *words: str) -> subprocess.Popen[bytes]:
        """Start curl."""
        return subprocess.Popen(self.command(self.url(job, query), *words), stdout=subprocess.PIPE, bufsize=0)

    def ended_job(self, script: str, replicas: int = 1, **fields: object) -> str:
        """Return a job that has run a shell script to its end."""
        job = launch(self.cluster, shell(script), replicas, **fields)
        wait_for_end(self.cluster, job)
        return job


@pytest.fixture
def curl(shared_cluster: LocalServer) -> Iterator[Curl]:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    with RemoteClusterClient(shared_cluster.address) as cluster:
        yield Curl(shared_cluster.address, cluster)
