"""The worker explains why the system does not let it read a process, for each setting of Yama."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from iris.cluster.worker.process.tracing import explain_refusal, needs_tracer, refusal_text, yama_scope


@pytest.mark.parametrize(("text", "scope"), [("0\n", 0), ("1\n", 1), ("3\n", 3), ("", None), ("x", None)])
def test_ptrace_setting_of_yama_is_read_from_the_kernel(tmp_path: Path, text: str, scope: int | None) -> None:
    file = tmp_path / "ptrace_scope"
    file.write_text(text)
    assert yama_scope(str(file)) == scope


def test_kernel_without_yama_has_no_ptrace_setting(tmp_path: Path) -> None:
    assert yama_scope(str(tmp_path / "missing")) is None


def test_process_has_to_permit_its_tracer_only_if_the_yama_setting_is_1() -> None:
    assert [needs_tracer(scope) for scope in (None, 0, 1, 2, 3)] == [False, False, True, False, False]


@pytest.mark.parametrize(
    ("scope", "words"),
    [
        (None, ["PR_SET_DUMPABLE", "SYS_PTRACE"]),
        (0, ["PR_SET_DUMPABLE", "SYS_PTRACE"]),
        (1, ["kernel.yama.ptrace_scope is 1", "sysctl kernel.yama.ptrace_scope=0", "setcap cap_sys_ptrace+ep /b/py"]),
        (2, ["kernel.yama.ptrace_scope is 2", "setcap cap_sys_ptrace+ep /b/py"]),
        (3, ["kernel.yama.ptrace_scope is 3", "starts again"]),
    ],
)
def test_error_for_stacks_that_may_not_be_read_names_the_kernel_setting(scope: int | None, words: list[str]) -> None:
    text = refusal_text(scope, "/b/py", same_user=True, has_capability=False)
    assert [word for word in words if word not in text] == []


def test_error_for_stacks_that_may_not_be_read_despite_sys_ptrace_names_seccomp() -> None:
    assert "seccomp" in refusal_text(1, "/b/py", same_user=True, has_capability=True)


def test_error_for_stacks_of_a_process_of_another_user_names_the_user_as_the_cause() -> None:
    assert "another user" in refusal_text(0, "/b/py", same_user=False, has_capability=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another user")
def test_cause_why_the_stacks_of_a_real_process_may_not_be_read_is_found() -> None:
    with subprocess.Popen(["sleep", "300"], user=65534, group=65534) as process:
        text = explain_refusal(process.pid, "/b/py")
        process.kill()
    assert "another user" in text or "seccomp" in text  # root has the capability, unless it runs in a container


def test_error_for_the_stacks_of_an_ended_process_is_not_empty() -> None:
    assert explain_refusal(2**22 + 1, "/b/py")
