"""TLS, with real certificates and sockets: who is trusted, who is not, and what is said of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.certificates import Certificate, CertificateAuthority, self_signed
from support.cluster import launch, running_cluster, shell, wait_for_end, wait_for_state
from support.tokens import token
from support.waiting import wait_until

from iris.client import IrisClient
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.client.server_process import LocalServer
from iris.errors import ControllerUnreachableError, FailedPreconditionError, InvalidArgumentError, LocalClusterError
from iris.rpc import cluster_pb2


def tls_options(certificate: Certificate, client_ca: Path | None = None) -> dict[str, str]:
    files = {"tls_cert": str(certificate.cert), "tls_key": str(certificate.key)}
    return files if client_ca is None else {**files, "client_ca": str(client_ca)}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def tls(authority: CertificateAuthority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """A cluster of two workers, with a certificate that an authority has signed."""
    with running_cluster(
        tmp_path_factory.mktemp("tls"), workers=2, **tls_options(authority.server(name="tls"))
    ) as server:
        yield server


@pytest.fixture(scope="module")
def mutual(authority: CertificateAuthority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """The same, for clients with a certificate only."""
    options = tls_options(authority.server(name="mutual"), authority.path)
    with running_cluster(tmp_path_factory.mktemp("mutual"), workers=1, **options) as server:
        yield server


@pytest.mark.parametrize("route", ["auto", "worker", "controller"])
def test_job_runs_from_submission_to_result_over_tls(
    tls: LocalServer, authority: CertificateAuthority, route: str
) -> None:
    assert tls.address.startswith("https://")
    with IrisClient.remote(tls.address, ca=authority.path) as client:
        job = client.run(shell("for i in 1 2 3; do echo line $i; sleep 0.1; done"), replicas=2)
        lines = [line.message for line in client.stream_task_logs(job.job_id, 1, route=route)]  # type: ignore[arg-type]
        assert lines == ["line 1", "line 2", "line 3"]
        assert job.wait().state == cluster_pb2.JOB_STATE_SUCCEEDED
        assert [line.message for line in client.fetch_task_logs(job.job_id, 0)] == lines
        assert all(worker.address.startswith("https://") for worker in client.cluster.list_workers())


def test_task_connects_to_its_cluster_over_tls(tls: LocalServer, authority: CertificateAuthority) -> None:
    def work() -> list[str]:
        from iris.client import IrisClient

        with IrisClient.remote() as inside:
            child = inside.run(["sh", "-c", "echo from the child"], name="child")
            return [str(line.message) for line in child.logs(follow=True)]

    with IrisClient.remote(tls.address, ca=authority.path) as client:
        assert client.run(work).results(timeout=60) == [["from the child"]]


def test_stream_from_the_worker_ends_when_the_reader_disconnects_from_the_controller(
    tls: LocalServer, authority: CertificateAuthority
) -> None:
    with IrisClient.remote(tls.address, ca=authority.path) as client:
        job = client.run(shell("echo first; sleep 1000"))
        for _ in range(20):
            with client.stream_task_logs(job.job_id, 0, route="controller") as stream:
                assert next(stream).message == "first"
        client.terminate(job.job_id)
        client.wait(job.job_id)
        server = tls.process.pid
        wait_until(lambda: len(os.listdir(f"/proc/{server}/fd")) < 60, "the connections to the worker to be closed")


def test_self_signed_certificate_is_accepted(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path / "certificates")
    with (
        running_cluster(tmp_path / "cluster", **tls_options(certificate)) as server,
        RemoteClusterClient(server.address, ca=certificate.cert) as client,
    ):
        assert wait_for_end(client, launch(client, ["true"])).state == cluster_pb2.JOB_STATE_SUCCEEDED


def test_client_can_trust_the_certificate_of_the_server_directly(
    tls: LocalServer, authority: CertificateAuthority
) -> None:
    with RemoteClusterClient(tls.address, ca=authority.path.with_name("tls.pem")) as client:
        assert client.list_jobs() is not None


def test_client_reads_the_certificate_authority_from_iris_ca(
    tls: LocalServer, authority: CertificateAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IRIS_CA", str(authority.path))
    with RemoteClusterClient(tls.address) as client:
        assert client.list_jobs() is not None


def refused(address: str, **options: object) -> str:
    with (
        RemoteClusterClient(address, **options) as client,  # type: ignore[arg-type]
        pytest.raises(ControllerUnreachableError) as caught,
    ):
        client.list_jobs()
    assert address in str(caught.value)
    return str(caught.value)


def test_untrusted_server_certificate_is_refused(tls: LocalServer, tmp_path: Path) -> None:
    assert "its certificate is not trusted" in refused(tls.address)
    other = CertificateAuthority(tmp_path, "another authority")
    text = refused(tls.address, ca=other.path)
    assert "is not trusted" in text
    assert "IRIS_CA" in text


def test_certificate_for_another_host_name_is_refused(
    tls: LocalServer, authority: CertificateAuthority, tmp_path: Path
) -> None:
    certificate = authority.server("cluster.example.org", name="elsewhere")
    with running_cluster(tmp_path / "cluster", **tls_options(certificate)) as server:
        text = refused(server.address, ca=authority.path)
    assert "for another name" in text
    assert "127.0.0.1" in text


def test_expired_server_certificate_is_refused(authority: CertificateAuthority, tmp_path: Path) -> None:
    certificate = authority.server(name="old", expired=True)
    with running_cluster(tmp_path / "cluster", **tls_options(certificate)) as server:
        text = refused(server.address, ca=authority.path)
    assert "not valid at this time" in text
    assert "expired" in text


def test_http_to_a_tls_server_raises_an_error_that_recommends_https(tls: LocalServer) -> None:
    address = tls.address.replace("https://", "http://")
    assert "if it speaks TLS, its address begins with https://" in refused(address)


def test_https_to_a_server_without_tls_raises_an_error_that_names_the_cause(shared_cluster: LocalServer) -> None:
    assert "it does not speak TLS" in refused(shared_cluster.address.replace("http://", "https://"))


def test_client_without_a_certificate_is_refused(
    mutual: LocalServer, authority: CertificateAuthority, tmp_path: Path
) -> None:
    text = refused(mutual.address, ca=authority.path)
    assert "certificate of yours" in text or "asks for a certificate" in text
    stranger = CertificateAuthority(tmp_path, "another authority").client()
    refused(mutual.address, ca=authority.path, cert=stranger.pair)
    with IrisClient.remote(mutual.address, ca=authority.path, cert=authority.client().pair) as client:
        job = client.run(shell("echo hello"))
        for route in ("worker", "controller"):
            stream = client.stream_task_logs(job.job_id, 0, route=route)  # type: ignore[arg-type]
            assert [line.message for line in stream] == ["hello"]
        worker = wait_until(client.cluster.list_workers, "the worker")[0]
    text = refused(worker.address, ca=authority.path)
    assert "certificate of yours" in text or "asks for a certificate" in text


def test_task_connects_to_a_cluster_that_requires_client_certificates(
    mutual: LocalServer, authority: CertificateAuthority
) -> None:
    def work() -> str:
        from iris.client import IrisClient

        with IrisClient.remote() as inside:
            return str(inside.run(["true"], name="child").wait().state)

    with IrisClient.remote(mutual.address, ca=authority.path, cert=authority.client().pair) as client:
        assert client.run(work).results(timeout=60) == ["4"]


def test_client_accepts_certificate_and_key_in_one_file(
    mutual: LocalServer, authority: CertificateAuthority, tmp_path: Path
) -> None:
    client = authority.client()
    both = tmp_path / "both.pem"
    both.write_bytes(client.cert.read_bytes() + client.key.read_bytes())
    with RemoteClusterClient(mutual.address, ca=authority.path, cert=both) as remote:
        assert remote.list_jobs() is not None


def test_client_with_a_certificate_still_needs_a_token(mutual: LocalServer, authority: CertificateAuthority) -> None:
    from iris.errors import UnauthenticatedError

    with (
        RemoteClusterClient(
            mutual.address, ca=authority.path, cert=authority.client().pair, token=token(ttl_s=-100)
        ) as client,
        pytest.raises(UnauthenticatedError, match="has expired"),
    ):
        client.list_jobs()


def test_client_with_unusable_certificate_files_raises_an_error(
    tls: LocalServer, authority: CertificateAuthority, tmp_path: Path
) -> None:
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    with pytest.raises(FailedPreconditionError, match=r"ca=.*missing.pem: No such file"):
        RemoteClusterClient(tls.address, ca=tmp_path / "missing.pem")
    with pytest.raises(FailedPreconditionError, match="expected a file with certificates in PEM"):
        RemoteClusterClient(tls.address, ca=nonsense)
    with pytest.raises(FailedPreconditionError, match="expected a certificate and its key"):
        RemoteClusterClient(tls.address, ca=authority.path, cert=(str(nonsense), str(nonsense)))
    with pytest.raises(InvalidArgumentError, match="a path, or"):
        RemoteClusterClient(tls.address, ca=authority.path, cert=("a", "b", "c"))  # type: ignore[arg-type]


def test_server_with_unusable_certificate_files_does_not_start(authority: CertificateAuthority, tmp_path: Path) -> None:
    server, other = authority.server(name="one"), authority.server(name="two")
    with (
        pytest.raises(LocalClusterError, match="expected a certificate and its key"),
        running_cluster(tmp_path / "mixed", tls_cert=str(server.cert), tls_key=str(other.key)),
    ):
        pass
    with (
        pytest.raises(LocalClusterError, match=r"--client-ca.*expected a file with certificates"),
        running_cluster(tmp_path / "ca", **tls_options(server, server.key)),
    ):
        pass


def test_other_machines_are_served_by_tls_only(tmp_path: Path) -> None:
    with (
        pytest.raises(LocalClusterError, match="give --tls-cert and --tls-key, or use --insecure-no-tls"),
        running_cluster(tmp_path / "open", host="0.0.0.0"),
    ):
        pass
    with running_cluster(tmp_path / "said", host="0.0.0.0", insecure_no_tls=True) as server:
        port = server.address.rpartition(":")[2]
        with RemoteClusterClient(f"127.0.0.1:{port}") as client:
            job_id = launch(client, ["true"])
            assert wait_for_end(client, job_id).state == cluster_pb2.JOB_STATE_SUCCEEDED


def test_worker_refuses_a_controller_with_an_untrusted_certificate(
    tls: LocalServer, authority: CertificateAuthority, tmp_path: Path
) -> None:
    other = CertificateAuthority(tmp_path / "other", "another authority")
    said = tmp_path / "said"
    with ExitStack() as opened:
        messages = opened.enter_context(said.open("wb"))
        worker = opened.enter_context(
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "iris.cluster.worker", "--worker-id", "stranger"),
                    *("--controller", tls.address, "--directory", str(tmp_path / "worker"), "--ca", str(other.path)),
                ],
                stdout=messages,
                stderr=messages,
            )
        )
        try:
            wait_until(lambda: "is not trusted" in said.read_text(), "its complaint")
        finally:
            worker.terminate()
    with RemoteClusterClient(tls.address, ca=authority.path) as client:
        assert "stranger" not in {known.worker_id for known in client.list_workers()}


def test_silent_stream_over_tls_continues(tls: LocalServer, authority: CertificateAuthority) -> None:
    with RemoteClusterClient(tls.address, ca=authority.path) as client:
        job_id = launch(client, shell("sleep 1000"))
        wait_for_state(client, job_id, cluster_pb2.JOB_STATE_RUNNING)
        watched = client.watch_job(job_id)
        assert next(watched).state == cluster_pb2.JOB_STATE_RUNNING
        client.terminate_job(job_id)
        assert [job.state for job in watched][-1] == cluster_pb2.JOB_STATE_KILLED
