"""Tracebacks and `inspect` show the caller's own files, lines and text, on machines that do not have the files."""

from __future__ import annotations

import linecache
import pickle
import shutil
from pathlib import Path

import pytest
from support.callers import Caller

from iris.cluster.pickles.source_lines import SourceLines, show_lines
from iris.cluster.pickles.trailer import ModuleSource, Trailer, append_trailer, read_trailer


@pytest.fixture
def caller(tmp_path: Path) -> Caller:
    return Caller(tmp_path)


HELPER = """
    import functools

    def decorated(function):
        @functools.wraps(function)
        def wrapper(*args):
            return function(*args)  # in the decorator
        return wrapper

    class Reader:
        def read(self, shard):
            return self._open(shard)  # in the method

        @classmethod
        def _open(cls, shard):
            return [number for number in iter(Opened(shard))]  # in the comprehension

    class Opened:
        def __init__(self, shard): self.shard = shard
        def __iter__(self):
            raise ValueError(f"bad {self.shard}")  # in the iterator
"""
SCRIPT = """
    from submit import submit
    from helper import Reader, decorated

    @decorated
    def task():
        def inner():
            return (lambda shard: Reader().read(shard))("shard 3")  # in the lambda
        return inner()  # in the task

    submit(task)
"""


def test_traceback_in_the_task_shows_the_callers_files_and_lines(caller: Caller) -> None:
    caller.write({"script.py": SCRIPT, "helper.py": HELPER})
    caller.submit("script.py")
    shutil.rmtree(caller.folder)
    done = caller.try_to_run()
    lines = [line.strip() for line in done.stderr.splitlines()]
    for where in ("decorator", "task", "lambda", "method", "comprehension", "iterator"):
        number = next(number for number, line in enumerate(lines) if f"# in the {where}" in line)
        file = "script.py" if where in ("task", "lambda") else "helper.py"
        source = SCRIPT if file == "script.py" else HELPER
        at = next(at for at, line in enumerate(source.splitlines(), 1) if f"# in the {where}" in line)
        assert lines[number - 1].startswith(f'File "{caller.folder / file}", line {at}, in ')
    assert "dynamic-code" not in done.stderr


def test_traceback_shows_the_submitted_source_if_the_workers_file_differs(caller: Caller) -> None:
    caller.write({"script.py": "from submit import submit\ndef task(): raise KeyError('sent')\nsubmit(task)"})
    caller.submit("script.py")
    caller.write({"script.py": "# line 1\n# line 2 is another now\n"})
    assert "def task(): raise KeyError('sent')" in caller.try_to_run().stderr


INSPECTING = """
    import inspect, linecache, logging, sys, threading, traceback
    import helper
    from submit import submit

    def fails():
        raise ValueError("here")  # the line

    def task():
        linecache.checkcache()
        traces = []
        try:
            fails()
        except ValueError:
            traces.append(traceback.format_exc())
            logging.exception("logged")
        thread = threading.Thread(target=fails, name="mine")
        thread.start()
        thread.join()
        return [inspect.getsource(fails), inspect.getsource(helper.Box), inspect.getsource(helper.Box.get), *traces]

    submit(task)
"""


def test_sent_source_is_visible_to_inspect_logging_and_threads(caller: Caller) -> None:
    box = "class Box:\n    def get(self):\n        return 1\n"
    caller.write({"script.py": INSPECTING, "helper.py": box})
    caller.submit("script.py")
    shutil.rmtree(caller.folder)
    fails, kind, method, trace = caller.run()
    assert fails == 'def fails():\n    raise ValueError("here")  # the line\n'
    assert kind == box
    assert method == "    def get(self):\n        return 1\n"
    assert '    raise ValueError("here")  # the line\n' in trace
    stderr = caller.try_to_run().stderr
    assert stderr.count('    raise ValueError("here")  # the line\n') == 2
    assert "Exception in thread mine:\nTraceback" in stderr


def test_traceback_in_the_task_shows_the_source_of_notebook_cells(caller: Caller) -> None:
    program = """
        import linecache
        from submit import submit
        CELL = "def task():\\n    raise ValueError('in the cell')\\n"
        # As IPython does it, with a name that is no file.
        linecache.cache["<ipython-input-3-abc>"] = (len(CELL), None, CELL.splitlines(True), "<ipython-input-3-abc>")
        exec(compile(CELL, "<ipython-input-3-abc>", "exec"))
        submit(task)
    """
    caller.write({"script.py": program})
    caller.submit("script.py")
    stderr = caller.try_to_run().stderr
    assert "File \"<ipython-input-3-abc>\", line 2, in task\n    raise ValueError('in the cell')" in stderr


def test_traceback_of_a_child_job_shows_the_source(caller: Caller) -> None:
    program = """
        from submit import submit
        def inner(): raise ValueError("inside")
        def task():
            from iris.cluster.client.pickling import pickle_entrypoint
            from iris.cluster.types import Entrypoint
            return pickle_entrypoint(Entrypoint.from_callable(inner))
        submit(task)
    """
    caller.write({"script.py": program})
    caller.submit("script.py")
    shutil.rmtree(caller.folder)
    caller.entrypoint.write_bytes(caller.run())
    assert 'def inner(): raise ValueError("inside")' in caller.try_to_run().stderr


def test_source_lines_of_a_long_file_match_the_code(tmp_path: Path) -> None:
    file = tmp_path / "long.py"
    source = "#\n" * 100_000 + "def first():\n    return (\n        1,\n    )\n" + "#\n" * 100_000
    file.write_text(source)
    namespace: dict[str, object] = {}
    exec(compile(source, str(file), "exec"), namespace)
    lines = SourceLines()
    lines.add(namespace["first"].__code__)  # type: ignore[attr-defined]
    collected = lines.collect()[str(file)]
    assert collected.splitlines()[100_000:] == ["def first():", "    return (", "        1,", "    )"]
    assert len(collected) < 101_000
    show_lines({"<elsewhere>": collected})
    assert linecache.getline("<elsewhere>", 100_001) == "def first():\n"


def test_total_size_of_the_sent_source_is_limited(tmp_path: Path) -> None:
    lines = SourceLines()
    for number in range(40):
        file = tmp_path / f"f{number}.py"
        file.write_text("x = 1\n" + "#" * 100_000)
        lines.add(compile("x = 1", str(file), "exec"))
    assert 1_000_000 < sum(map(len, lines.collect().values())) <= 2 * 1024**2


def test_trailer_of_a_pickle_can_be_read_and_is_ignored_by_unpicklers() -> None:
    trailer = Trailer({"m": ModuleSource("f", "d", "r")}, {"f": "ä\udcff"}, {"__main__": {"A": ["m:A"]}})
    data = append_trailer(pickle.dumps([1]), trailer)
    assert read_trailer(data) == trailer
    assert pickle.loads(data) == [1]


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_damaged_trailer_of_a_pickle_is_ignored(cut: int) -> None:
    data = append_trailer(pickle.dumps([1]), Trailer(lines={"f": "text"}))
    for damaged in (data[:-cut], data[cut:], data[:20] + bytes(cut) + data[20 + cut :]):
        assert read_trailer(damaged) in (None, Trailer(lines={"f": "text"}))
