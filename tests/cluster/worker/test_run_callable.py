"""The program that runs a callable in a task's process. Each test runs it in a process."""

from __future__ import annotations

import asyncio
import functools
import os
import pickle
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from iris.cluster.client.pickling import pickle_entrypoint
from iris.cluster.pickles.transfer_limits import MAX_RESULT_BYTES
from iris.cluster.types import Entrypoint
from iris.cluster.worker.process import start_callable
from iris.reasons import FailureCode
from iris.versions import python_version

BY_FILE = ("-P", start_callable.__file__)
BY_NAME = ("-m", "iris.cluster.worker.process.start_callable")


@dataclass
class Ended:
    """What a worker can see of an ended run."""

    exit_code: int
    stdout: str
    stderr: str
    result: bytes | None
    error: str | None
    failure: str | None
    code: str | None
    exception: bytes | None
    traceback: str | None

    def value(self) -> Any:
        """Return the value that the callable returned."""
        assert (self.exit_code, self.error, self.failure) == (0, None, None), self.stderr
        assert self.result is not None
        return pickle.loads(self.result)


class Worker:
    """Runs callables in a directory of their own."""

    def __init__(self, path: Path) -> None:
        self.entrypoint = path / "entrypoint"
        self.result = path / "result"
        self.work = path / "work"
        self.work.mkdir()

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Ended:
        self.entrypoint.write_bytes(pickle_entrypoint(Entrypoint.from_callable(function, *args, **kwargs)))
        return self.start()

    def run_script(self, source: str, **modules: str) -> Ended:
        """Run what a caller's script submits, so that its functions belong to a real `__main__`."""
        header = f"""
            from pathlib import Path
            from iris.cluster.client.pickling import pickle_entrypoint
            from iris.cluster.types import Entrypoint

            def submit(function):
                blob = pickle_entrypoint(Entrypoint.from_callable(function))
                Path({str(self.entrypoint)!r}).write_bytes(blob)
        """
        folder = self.entrypoint.parent / "caller"
        folder.mkdir()
        for name, text in modules.items():
            (folder / f"{name}.py").write_text(textwrap.dedent(text))
        (folder / "script.py").write_text(textwrap.dedent(header) + textwrap.dedent(source))
        subprocess.run([sys.executable, "script.py"], cwd=folder, check=True)
        return self.start()

    def start(self, program: tuple[str, ...] = BY_FILE, pickled_by: str | None = None) -> Ended:
        """Run the callable in the entrypoint file."""
        pickled_by = python_version() if pickled_by is None else pickled_by
        done = subprocess.run(
            [sys.executable, *program, self.entrypoint, self.result, pickled_by],
            cwd=self.work,
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        names = ("", ".error", ".failure", ".code", ".exception", ".traceback")
        expected = [Path(f"{self.result}{name}") for name in names]
        assert set(self.result.parent.glob("result*")) <= set(expected), "a file was written beside and not renamed"
        files = (path.read_bytes() if path.is_file() else None for path in expected)
        result, error, failure, code, exception, trace = files
        return Ended(
            done.returncode,
            done.stdout,
            done.stderr,
            result,
            None if error is None else error.decode(),
            None if failure is None else failure.decode(),
            None if code is None else code.decode(),
            exception,
            None if trace is None else trace.decode(),
        )


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return Worker(tmp_path)


# --- what it returns


class Point:
    def __init__(self, x: int) -> None:
        self.x = x


@pytest.mark.parametrize("value", [42, None, "ä", {"a": [1, 2]}, b"", ValueError("returned, not raised")])
def test_return_value_of_a_callable_is_pickled(worker: Worker, value: object) -> None:
    assert repr(worker.run(lambda: value).value()) == repr(value)


def test_the_callable_gets_its_arguments(worker: Worker) -> None:
    ended = worker.run(lambda *args, **kwargs: (args, kwargs), 1, [2], key="three")
    assert ended.value() == ((1, [2]), {"key": "three"})


def test_instance_returned_by_a_callable_has_the_class_of_the_caller(worker: Worker) -> None:
    point = worker.run(lambda: Point(7)).value()
    assert isinstance(point, Point)
    assert point.x == 7


def test_a_coroutine_function_is_run(worker: Worker) -> None:
    async def main(x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    assert worker.run(main, 1).value() == 2


def test_a_result_that_is_too_large_is_refused_with_a_reason(worker: Worker) -> None:
    ended = worker.run(lambda: bytes(MAX_RESULT_BYTES))
    assert (ended.exit_code, ended.result, ended.failure) == (0, None, None)
    assert "too large: 8.0 MiB" in str(ended.error)


def test_a_result_that_cannot_be_pickled_is_refused_with_a_reason(worker: Worker) -> None:
    ended = worker.run(lambda: threading.Lock())
    assert (ended.exit_code, ended.result, ended.failure) == (0, None, None)
    assert (
        ended.error
        == "the return value of the callable cannot be pickled: TypeError: cannot pickle '_thread.lock' object"
    )


def test_a_result_that_cannot_be_stored_is_refused_with_a_reason(worker: Worker) -> None:
    worker.result.mkdir()
    (worker.result / "in-the-way").touch()
    ended = worker.run(lambda: 1)
    assert (ended.exit_code, ended.result, ended.failure) == (0, None, None)
    assert "could not be stored on the worker: " in str(ended.error)


# --- how it ends


def failing() -> None:
    deeper("shard 3")


def deeper(what: str) -> None:
    raise ValueError(f"bad {what}")


def test_exception_of_a_callable_is_written_as_traceback_and_failure_text(worker: Worker) -> None:
    ended = worker.run(failing)
    assert (ended.exit_code, ended.result, ended.error) == (1, None, None)
    assert ended.failure == "ValueError: bad shard 3"
    lines = ended.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert "in failing" in lines[1], "the traceback begins with the user's code"
    for program in ("run_callable", "start_callable"):
        assert program not in ended.stderr.replace("test_run_callable", "")
    assert {'    deeper("shard 3")', '    raise ValueError(f"bad {what}")'} <= set(lines)
    assert lines[-1] == "ValueError: bad shard 3"
    assert ended.traceback == ended.stderr


def test_callable_with_wrong_arguments_fails(worker: Worker) -> None:
    ended = worker.run(deeper)
    assert ended.exit_code == 1
    assert ended.stderr == "TypeError: deeper() missing 1 required positional argument: 'what'\n"


class OddError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def _raise(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (KeyError("k"), "KeyError: 'k'"),
        (AssertionError(), "AssertionError"),
        (RuntimeError("two\n  lines"), "RuntimeError: two lines"),
        (subprocess.CalledProcessError(2, "cmd"), "subprocess.CalledProcessError: Command 'cmd' returned non-zero"),
        (ExceptionGroup("several", [ValueError(1)]), "ExceptionGroup: several (1 sub-exception)"),
        (UnicodeError("\udcff"), "UnicodeError: ?"),
        (OddError(), "OddError: (no text"),
    ],
)
def test_the_failure_text_of_an_exception_is_its_last_line(worker: Worker, error: BaseException, failure: str) -> None:
    ended = worker.run(_raise, error)
    assert ended.exit_code == 1
    assert failure in str(ended.failure)


def test_long_failure_text_of_a_callable_is_truncated(worker: Worker) -> None:
    failure = worker.run(_raise, ValueError("x" * 5000)).failure
    assert failure is not None
    assert failure.startswith("ValueError: xxx")
    assert failure.endswith("x…")
    assert len(failure) < 1100


@pytest.mark.parametrize(
    ("code", "exit_code", "stderr", "error", "failure"),
    [
        (None, 0, "", "sys.exit", None),
        (0, 0, "", "sys.exit", None),
        (3, 3, "", None, "sys.exit(3)"),
        (-1, 255, "", None, "sys.exit(255)"),
        (256, 0, "", "sys.exit", None),
        ("no shards", 1, "no shards\n", None, "no shards"),
    ],
)
def test_sys_exit_in_a_callable_sets_the_exit_code(
    worker: Worker, code: Any, exit_code: int, stderr: str, error: str | None, failure: str | None
) -> None:
    ended = worker.run(sys.exit, code)
    assert (ended.exit_code, ended.stderr, ended.failure, ended.result) == (exit_code, stderr, failure, None)
    assert (error is None) == (ended.error is None)
    assert error is None or error in str(ended.error)


def _ask_for_too_much() -> None:
    raise MemoryError


@pytest.mark.parametrize(
    ("function", "code"),
    [(_ask_for_too_much, "OUT_OF_MEMORY"), (int, None), (functools.partial(int, "x"), "EXCEPTION")],
)
def test_failed_callable_writes_its_failure_code(
    worker: Worker, function: Callable[..., Any], code: str | None
) -> None:
    assert worker.run(function).code == code
    assert code is None or code in FailureCode.__members__


def test_callable_that_cannot_be_unpickled_has_the_failure_code_callable_not_loaded(worker: Worker) -> None:
    worker.entrypoint.write_bytes(b"no pickle")
    assert worker.start().code == FailureCode.CALLABLE_NOT_LOADED.name


def test_callable_interrupted_by_ctrl_c_exits_with_130(worker: Worker) -> None:
    def main() -> None:
        import signal

        signal.raise_signal(signal.SIGINT)

    ended = worker.run(main)
    assert (ended.exit_code, ended.failure, ended.result) == (130, "KeyboardInterrupt", None)
    assert ended.stderr.endswith("KeyboardInterrupt\n")


def test_process_of_a_callable_waits_for_threads_and_exit_handlers(worker: Worker) -> None:
    def main() -> str:
        import atexit
        import threading

        def last() -> None:
            threading.main_thread().join()  # until it only waits for the other threads
            print("thread")

        atexit.register(print, "atexit")
        threading.Thread(target=last).start()
        print("main", end=" ")
        return "returned"

    ended = worker.run(main)
    assert ended.value() == "returned"
    assert ended.stdout == "main thread\natexit\n"


def test_output_of_a_failing_callable_is_flushed(worker: Worker) -> None:
    def main() -> None:
        print("no newline, no flush", end="")
        raise SystemExit(2)

    assert worker.run(main).stdout == "no newline, no flush"


def test_callable_that_closes_its_standard_streams_succeeds(worker: Worker) -> None:
    def main() -> int:
        sys.stdout.close()
        sys.stderr.close()
        os.close(1)
        os.close(2)
        return 1

    assert worker.run(main).value() == 1


def test_forked_child_of_a_callable_that_returns_writes_no_result(worker: Worker) -> None:
    def main(fail: bool) -> str:
        child = os.fork()
        if child == 0:
            if fail:
                raise ValueError("in the child")
            return "child"
        os.waitpid(child, 0)
        return "parent"

    assert worker.run(main, False).value() == "parent"
    assert worker.run(main, True).value() == "parent"


# --- what it needs


def test_a_callable_of_another_python_version_is_refused(worker: Worker) -> None:
    worker.entrypoint.write_bytes(b"never read")
    ended = worker.start(pickled_by="3.7")
    assert (ended.exit_code, ended.result, ended.error) == (1, None, None)
    assert ended.failure == (
        f"the callable was pickled by Python 3.7 and cannot run on this worker's Python {python_version()}: submit it"
        f" from Python {python_version()}, use a worker with Python 3.7, or submit a command instead"
    )
    assert ended.stderr == f"iris: {ended.failure}\n"


def test_a_callable_of_an_unknown_python_version_is_run(worker: Worker) -> None:
    worker.run(lambda: 1)
    assert worker.start(pickled_by="").value() == 1


@pytest.mark.parametrize("program", [BY_FILE, BY_NAME])
def test_run_callable_program_starts_by_path_and_by_module_name(worker: Worker, program: tuple[str, ...]) -> None:
    worker.run(lambda: 1)
    worker.result.unlink()
    assert worker.start(program).value() == 1


def test_a_missing_module_is_a_failure_with_advice(worker: Worker) -> None:
    module = worker.work / "only_at_the_callers.py"
    module.write_text("def value(): return 1")
    worker.entrypoint.write_bytes(b"conly_at_the_callers\nvalue\n(t}\x87.")
    assert worker.start().value() == 1
    worker.result.unlink()
    module.unlink()
    ended = worker.start()
    assert (ended.exit_code, ended.result) == (1, None)
    assert ended.failure == (
        "the callable cannot be unpickled on the worker: ModuleNotFoundError: No module named 'only_at_the_callers'"
        " (install it on the worker, or send it along in a workspace, without .gitignore naming it)"
    )
    assert ended.stderr == f"iris: {ended.failure}\n"


def test_a_missing_module_in_a_workspace_module_shows_the_users_traceback(worker: Worker) -> None:
    (worker.work / "in_workspace.py").write_text("import not_there\ndef value(): return 1")
    worker.entrypoint.write_bytes(b"cin_workspace\nvalue\n(t}\x87.")
    ended = worker.start()
    assert "No module named 'not_there' (install it" in str(ended.failure)
    assert 'in_workspace.py", line 1' in ended.stderr, "where it was imported"
    assert f"iris: {ended.failure}\n" in ended.stderr


def test_a_module_that_is_missing_during_the_call_is_a_failure_with_advice(worker: Worker) -> None:
    def main() -> None:
        import not_there  # type: ignore[import-not-found] # noqa: F401

    ended = worker.run(main)
    assert str(ended.failure).startswith("ModuleNotFoundError: No module named 'not_there' (install it on the worker")


@pytest.mark.parametrize("content", [b"", b"garbage", b"cos\nno_such_name\n(t}\x87."])
def test_an_entrypoint_that_cannot_be_unpickled_is_a_failure(worker: Worker, content: bytes) -> None:
    worker.entrypoint.write_bytes(content)
    ended = worker.start()
    assert ended.exit_code == 1
    assert str(ended.failure).startswith("the callable cannot be unpickled on the worker: ")
    assert ended.stderr == f"iris: {ended.failure}\n"


# --- what the callable sees


def test_bytecode_of_the_program_is_stored(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    stored = worker.run(lambda: sys.modules["_iris_run_callable"].__spec__.cached).value()
    assert Path(stored).is_file()


def test_garbage_collector_runs_in_a_callable_and_knows_its_objects(worker: Worker) -> None:
    def main(argument: object) -> tuple[bool, bool]:
        import gc

        return gc.isenabled(), any(known is argument for known in gc.get_objects())

    assert worker.run(main, Point(1)).value() == (True, True)


def test_working_directory_of_a_callable_is_first_on_sys_path(worker: Worker) -> None:
    (worker.work / "iris.py").write_text("MINE = True")

    def main() -> Any:
        import iris  # of the workspace: the program that runs this has imported no other

        return sys.path[0], vars(iris).get("MINE")

    assert worker.run(main).value() == (str(worker.work), True)


def test_process_of_a_callable_imports_no_module_of_iris(worker: Worker) -> None:
    def main() -> Any:
        return [
            name for name in sys.modules if name.partition(".")[0] in ("iris", "asyncio", "multiprocessing", "google")
        ]

    assert worker.run(main).value() == []


def test_main_module_of_a_task_contains_the_callers_functions(worker: Worker) -> None:
    ended = worker.run_script(
        """
        import sys
        LIMIT = 3
        class Shape: pass
        def unused(): pass
        def used(): return LIMIT
        def main():
            here = sys.modules["__main__"]
            names = {name for name in vars(here) if not name.startswith("__")}
            return names, here.used is used, here.LIMIT, Shape.__module__, sys.argv
        submit(main)
        """
    )
    assert ended.value() == ({"main", "used", "LIMIT", "Shape", "sys"}, True, 3, "__main__", ["main"])


SQUARE = """
class Number(int): pass
def square(x): return Number(x * x)
"""
SQUARES = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

def main():
    fork = multiprocessing.get_context("fork")
    with fork.Pool(2) as pool:
        squares = pool.map(square, [Number(1), Number(2)])
    with ProcessPoolExecutor(2, fork) as pool:
        squares += pool.map(square, [Number(3)])
    process = fork.Process(target=square, args=(1,))
    process.start()
    process.join()
    return [int(x) for x in squares], {type(x) for x in squares} == {Number}, process.exitcode

submit(main)
"""


@pytest.mark.parametrize(
    "definitions", [SQUARE, "from helper import Number, square"], ids=["function of __main__", "function of a module"]
)
def test_forked_processes_find_sent_functions_by_name(worker: Worker, definitions: str) -> None:
    assert worker.run_script(definitions + SQUARES, helper=SQUARE).value() == ([1, 4, 9], True, 0)


@pytest.mark.parametrize("start_method", ["fork", "forkserver", "spawn"])
def test_spawned_processes_import_modules_of_the_workspace(worker: Worker, start_method: str) -> None:
    (worker.work / "in_workspace.py").write_text("def square(x): return x * x")

    def main() -> Any:
        import multiprocessing

        import in_workspace  # type: ignore[import-not-found]

        with multiprocessing.get_context(start_method).Pool(2) as pool:
            return pool.map(in_workspace.square, [1, 2, 3])

    assert worker.run(main).value() == [1, 4, 9]


def test_the_callers_version_of_a_module_replaces_the_workers_version(worker: Worker) -> None:
    (worker.work / "helper.py").write_text("def value(): return 'of the worker'")
    ended = worker.run_script(
        """
        import helper
        def main():
            import importlib
            return helper.value(), importlib.import_module("helper").value()
        submit(main)
        """,
        helper="def value(): return 'of the caller'",
    )
    assert ended.value() == ("of the caller", "of the caller")


def test_a_callable_can_pickle_a_callable_for_a_child_job(worker: Worker) -> None:
    ended = worker.run_script(
        """
        import helper
        from iris.cluster.client.pickling import pickle_entrypoint
        def inner(): return helper.value(), Local.name
        class Local: name = "local"
        def main():
            from iris.cluster.types import Entrypoint
            return pickle_entrypoint(Entrypoint.from_callable(inner))
        submit(main)
        """,
        helper="def value(): return 'helper'",
    )
    worker.entrypoint.write_bytes(ended.value())
    assert worker.start().value() == ("helper", "local")
