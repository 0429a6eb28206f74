"""What `iris doctor` concludes from what it has measured."""

from __future__ import annotations

import contextlib
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from iris.cli.doctor.cluster_checks import judge_cluster, judge_worker
from iris.cli.doctor.findings import Finding, Status, findings_document, findings_text, has_problem
from iris.cli.doctor.probing import probe_server
from iris.cli.doctor.server_checks import ServerProbe, judge_server, judge_token, judge_versions
from iris.cluster.client.task_token import Holder
from iris.rpc import cluster_pb2
from iris.rpc.http.tls import ClientTls
from iris.system.sockets import address_of

C = cluster_pb2.Controller
ADDRESS = "http://c:50051"
DAY_S = 86400.0


def statuses(findings: list[Finding]) -> dict[str, Status]:
    """Return the status of each finding, by the name of its check."""
    found = {finding.check: finding.status for finding in findings}
    assert len(found) == len(findings), "one check has two findings"
    return found


def test_doctor_finding_about_a_server_that_answers_is_good() -> None:
    probe = ServerProbe(is_iris=True, is_ready=True, clock_offset_s=0.0)
    assert statuses(judge_server(probe, ADDRESS)) == {"reachability": Status.OK, "clock": Status.OK}


@pytest.mark.parametrize(
    ("probe", "check", "status"),
    [
        (ServerProbe(error="refused", advice="start it"), "reachability", Status.PROBLEM),
        (ServerProbe(), "reachability", Status.WARNING),
        (ServerProbe(is_iris=True), "readiness", Status.PROBLEM),
        (ServerProbe(is_iris=True, is_ready=True, clock_offset_s=-4.0), "clock", Status.OK),
        (ServerProbe(is_iris=True, is_ready=True, clock_offset_s=6.0), "clock", Status.WARNING),
        (ServerProbe(is_iris=True, is_ready=True, clock_offset_s=-31.0), "clock", Status.PROBLEM),
        (ServerProbe(is_iris=True, is_ready=True, certificate_left_s=15 * DAY_S), "tls", Status.OK),
        (ServerProbe(is_iris=True, is_ready=True, certificate_left_s=13 * DAY_S), "tls", Status.WARNING),
        (ServerProbe(is_iris=True, is_ready=True, certificate_left_s=-1.0), "tls", Status.PROBLEM),
    ],
)
def test_doctor_gives_advice_about_a_server_with_a_fault(probe: ServerProbe, check: str, status: Status) -> None:
    (finding,) = (finding for finding in judge_server(probe, ADDRESS) if finding.check == check)
    assert finding.status is status
    assert bool(finding.advice) == (status is not Status.OK)


def test_invalid_host_name_counts_as_a_name_that_does_not_resolve() -> None:
    probe = probe_server(f"http://{'a' * 64}.example:80", ClientTls())
    assert "is unknown here" in probe.error


def test_doctor_does_not_wait_long_for_a_server_that_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        probe = probe_server(address_of(silent), ClientTls(), timeout_s=0.5)
    assert probe.error == "it accepts connections, but has not answered within 0.5 s"


def test_doctor_notices_that_a_server_with_endless_answers_is_not_iris() -> None:
    def answer(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                connection.sendall(b"x" * 65536)

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as pool:
        answering = pool.submit(answer, listener)
        probe = probe_server(address_of(listener), ClientTls(), timeout_s=30.0)
        answering.result(30)
    assert (probe.error, probe.is_iris) == ("", False)


@pytest.mark.parametrize(
    ("left_s", "status"), [(4 * DAY_S, Status.OK), (2 * DAY_S, Status.WARNING), (0.0, Status.PROBLEM)]
)
def test_doctor_judges_a_token_by_the_time_until_its_expiry(left_s: float, status: Status) -> None:
    holder = Holder("ana", "reader", "id", round((1000 + left_s) * 1000))
    finding = judge_token(holder, 1_000_000, is_given=True)
    assert finding.status is status
    assert "'ana' has the role 'reader'" in finding.text


def test_doctor_reports_missing_and_malformed_tokens_as_problems() -> None:
    assert judge_token(None, 0, is_given=False).text == "there is no token for this cluster"
    assert judge_token(None, 0, is_given=True).status is Status.PROBLEM


def test_doctor_reports_client_and_controller_of_incompatible_releases() -> None:
    assert judge_versions(C.DescribeClusterResponse(version="9.9.0")).status is Status.PROBLEM
    assert judge_versions(C.DescribeClusterResponse()).status is Status.OK


def healthy_cluster() -> C.CheckClusterResponse:
    status = C.ClusterStatus(engine="local", disk_total_bytes=100, disk_free_bytes=50)
    return C.CheckClusterResponse(
        status=status, open_files=10, max_files=100, num_workers=1, workers=[healthy_worker()]
    )


def healthy_worker() -> C.WorkerCheck:
    metadata = cluster_pb2.WorkerMetadata(version="0.1.0", enforcement="cgroup", has_py_spy=True, ptrace_scope=1)
    worker = C.WorkerHealthStatus(worker_id="w", address="http://w:1", healthy=True, metadata=metadata)
    return C.WorkerCheck(worker=worker, latency_ms=3, clock_offset_ms=20)


def test_doctor_has_only_good_findings_about_a_healthy_cluster() -> None:
    found = [*judge_cluster(healthy_cluster()), *judge_worker(healthy_worker(), "0.1.0", {"w": ""})]
    assert {finding.status for finding in found} == {Status.OK}


def test_doctor_finds_faults_of_the_controller() -> None:
    answer = healthy_cluster()
    answer.engine_problem = "slurmctld does not answer"
    answer.status.disk_free_bytes = 9
    answer.open_files = 81
    answer.num_workers = 0
    del answer.workers[:]
    assert statuses(judge_cluster(answer)) == {
        "engine": Status.PROBLEM,
        "disk": Status.WARNING,
        "descriptors": Status.WARNING,
        "workers": Status.PROBLEM,
    }
    answer.status.shortage = "the disk of the controller is nearly full"
    assert statuses(judge_cluster(answer))["shortage"] is Status.PROBLEM


def test_doctor_reports_a_worker_that_the_controller_cannot_call() -> None:
    check = healthy_worker()
    check.problem = "no answer"
    found = statuses(judge_worker(check, "0.1.0", {}))
    assert found["reachability"] is Status.PROBLEM
    assert "reachability-here" not in found


def test_doctor_reports_a_worker_that_answers_but_misses_heartbeats() -> None:
    check = healthy_worker()
    check.worker.healthy, check.worker.consecutive_failures = False, 4
    assert statuses(judge_worker(check, "0.1.0", {}))["heartbeat"] is Status.PROBLEM


def test_doctor_accepts_a_worker_that_only_this_machine_cannot_reach() -> None:
    found = judge_worker(healthy_worker(), "0.1.0", {"w": "no answer within 5 s"})
    (here,) = (finding for finding in found if finding.check == "reachability-here")
    assert here.status is Status.UNKNOWN
    assert not has_problem(found)


@pytest.mark.parametrize(
    ("change", "check", "status"),
    [
        ({"enforcement": "watch"}, "cgroups", Status.UNKNOWN),
        ({"enforcement": "none"}, "cgroups", Status.UNKNOWN),
        ({"has_py_spy": False}, "stacks", Status.UNKNOWN),
        ({"ptrace_scope": 2}, "stacks", Status.UNKNOWN),
        ({"ptrace_scope": 3}, "stacks", Status.UNKNOWN),
        ({"version": "9.9.0"}, "version", Status.PROBLEM),
    ],
)
def test_doctor_gives_advice_about_a_worker_with_an_unfavourable_setting(
    change: dict[str, str | int], check: str, status: Status
) -> None:
    changed = healthy_worker()
    changed.worker.metadata.MergeFrom(cluster_pb2.WorkerMetadata(**change))  # type: ignore[arg-type]  # see above
    (finding,) = (one for one in judge_worker(changed, "0.1.0", {}) if one.check == check)
    assert finding.status is status
    assert finding.advice


def test_doctor_says_that_a_worker_without_enforcement_enforces_no_limits() -> None:
    changed = healthy_worker()
    changed.worker.metadata.enforcement = "none"
    (finding,) = (one for one in judge_worker(changed, "0.1.0", {}) if one.check == "cgroups")
    assert finding.text == "limits of tasks are not enforced"
    assert "'iris up --enforce'" in finding.advice


def test_doctor_has_no_findings_about_facts_that_an_older_worker_does_not_report() -> None:
    check = healthy_worker()
    check.worker.metadata.Clear()
    check.ClearField("clock_offset_ms")
    assert set(statuses(judge_worker(check, "0.1.0", {}))) == {"reachability"}


def test_doctor_compares_the_clocks_of_workers_with_the_clock_of_the_controller() -> None:
    check = healthy_worker()
    check.clock_offset_ms = -40_000
    (clock,) = (one for one in judge_worker(check, "0.1.0", {}) if one.check == "clock")
    assert (clock.status, clock.text[:55]) == (
        Status.PROBLEM,
        "its clock is 40.0 s behind the clock of the controller.",
    )


def test_doctor_prints_good_findings_of_one_subject_on_one_line_and_each_problem_with_its_advice() -> None:
    findings = [
        Finding("a", "controller", Status.OK, "one"),
        Finding("b", "controller", Status.OK, "two"),
        Finding("c", "controller", Status.PROBLEM, "three", "do it"),
        Finding("d", "client", Status.UNKNOWN, "four"),
    ]
    assert findings_text(findings).splitlines() == [
        "ok    controller: one; two",
        "FAIL  controller: three",
        "      → do it",
        "?     client: four",
    ]
    document = findings_document(findings)
    assert document["ok"] is False
    assert document["findings"][2] == {
        "check": "c",
        "subject": "controller",
        "status": "problem",
        "text": "three",
        "advice": "do it",
    }
