"""Lets py-spy read the memory of tasks, and explains why the system refuses it. See ptrace(2) and the kernel's document
about Yama.

py-spy reads the memory of a task with `process_vm_readv`. Under Yama's setting 1, the default of Ubuntu, a process may
only read its descendants, and processes that have named it or one of its ancestors as their tracer. py-spy is a child
of the worker and no ancestor of the task. Therefore each task names the worker as its tracer. The kernel keeps the
tracer when the process executes a program. The children of the process do not inherit the tracer.
"""

from __future__ import annotations

import ctypes
import os

_YAMA = "/proc/sys/kernel/yama/ptrace_scope"
_PR_SET_PTRACER = 0x59616D61
_CAP_SYS_PTRACE = 1 << 19


def yama_scope(path: str = _YAMA) -> int | None:
    """Return Yama's setting `kernel.yama.ptrace_scope`, from 0 to 3, or None if the kernel has no Yama."""
    try:
        with open(path) as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def needs_tracer(scope: int | None) -> bool:
    """Return whether a process must name its tracer to be readable.

    Args:
        scope: The return value of `yama_scope`.
    """
    return scope == 1


def allow_tracer(pid: int) -> None:
    """Allow a process and its descendants to read the memory of this process. The call has no effect if the kernel
    lacks Yama, the security module that restricts ptrace.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, pid, 0, 0, 0)


def refusal_text(scope: int | None, program: str, *, same_user: bool, has_capability: bool) -> str:
    """Return why the system refuses to let a program read a process, and which setting allows it.

    Args:
        scope: The return value of `yama_scope`.
        program: The path of the program that reads the other process.
        same_user: Whether the other process runs as the same user as the program.
        has_capability: Whether the program has the capability CAP_SYS_PTRACE.
    """
    grant = f"'sudo setcap cap_sys_ptrace+ep {program}'"
    if has_capability:
        return (
            "the system refuses to read the memory of the process although the worker has CAP_SYS_PTRACE: a security"
            " profile (seccomp, AppArmor or SELinux) of the worker's container or service forbids process_vm_readv"
        )
    if not same_user:
        return f"the process belongs to another user than the worker: {grant} on its machine allows py-spy to read it"
    if scope == 1:
        return (
            "kernel.yama.ptrace_scope is 1 and the process was started by another process of the task, so it has not"
            f" allowed the worker to read it: 'sudo sysctl kernel.yama.ptrace_scope=0' or {grant} on its machine allows"
            " it"
        )
    if scope == 2:
        return (
            "kernel.yama.ptrace_scope is 2, so only programs with CAP_SYS_PTRACE may read other processes:"
            f" {grant} on its machine, or the setting 0 or 1, allows it"
        )
    if scope == 3:
        return (
            "kernel.yama.ptrace_scope is 3, so no process may read another one until the machine starts again with a"
            " lower setting"
        )
    return (
        "the system refuses to read the memory of the process, because the process has made itself unreadable"
        " (PR_SET_DUMPABLE), or because the worker's container forbids process_vm_readv: start the container with the"
        f" capability SYS_PTRACE, or run {grant} on its machine"
    )


def explain_refusal(pid: int, program: str) -> str:
    """Return why this process's children may not read a process, and which setting allows it.

    Args:
        pid: The id of the process.
        program: The path of the program that was refused.
    """
    user = _status_field(pid, "Uid")
    has_capability = bool(int(_status_field(os.getpid(), "CapEff") or "0", 16) & _CAP_SYS_PTRACE)
    return refusal_text(yama_scope(), program, same_user=user in ("", str(os.geteuid())), has_capability=has_capability)


def _status_field(pid: int, name: str) -> str:
    """Return the first word of a field in /proc/PID/status, or an empty string if the process has ended."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            return next((line.split()[1] for line in file if line.startswith(f"{name}:")), "")
    except OSError:
        return ""
