"""What of the caller's code travels with a callable: real programs submit, and the real runner runs it elsewhere."""

from __future__ import annotations

import dataclasses
import functools
import json
import operator
import os
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import cloudpickle
import pytest
from support.callers import Caller

from iris.cluster.client.pickling import MAX_ENTRYPOINT_BYTES, pickle_entrypoint
from iris.cluster.types import Entrypoint
from iris.errors import EntrypointError, ResourceExhaustedError
from iris.versions import python_version


@pytest.fixture
def caller(tmp_path: Path) -> Caller:
    return Caller(tmp_path)


def pickled(function: Callable[..., Any], *args: Any, **kwargs: Any) -> bytes:
    return pickle_entrypoint(Entrypoint.from_callable(function, *args, **kwargs))


def run_here(blob: bytes) -> Any:
    function, args, kwargs = pickle.loads(blob)
    return function(*args, **kwargs)


# --- whose modules go


def test_own_modules_of_a_script_are_pickled_by_value(caller: Caller) -> None:
    caller.write(
        {
            "script.py": """
                import dataclasses, enum
                import helper                               # used as a module
                import package.tools                        # … with a dot
                import plain.folder.inner                   # … in folders without __init__.py
                from helper import double                   # used by name
                from package.sub.deep import Base
                from submit import submit

                FACTOR = 10

                class Color(enum.Enum):
                    RED = 1

                @dataclasses.dataclass
                class Point(Base):
                    x: int

                def scaled(number):
                    return number * FACTOR

                def main(point, *, color):
                    assert color is Color.RED
                    assert isinstance(point, Point) and isinstance(point, Base)
                    return [
                        scaled(point.x), double(4), helper.double(5), helper.doubled_twice(1),
                        package.tools.triple(2), plain.folder.inner.value(), point.base(),
                    ]

                if __name__ == "__main__":
                    submit(main, Point(3), color=Color.RED)
            """,
            "helper.py": """
                def double(x): return 2 * x
                def doubled_twice(x): return double(double(x))
            """,
            "package/__init__.py": "from package.sub import deep",
            "package/tools.py": """
                from . import sub
                def triple(x): return sub.deep.THREE * x
            """,
            "package/sub/__init__.py": "",
            "package/sub/deep.py": """
                THREE = 3
                class Base:
                    def base(self): return f"base {THREE}"
            """,
            "plain/folder/inner.py": "def value(): return 'inner'",
        }
    )
    caller.submit("script.py")
    assert caller.run() == [30, 8, 10, 4, 6, "inner", "base 3"]


def test_modules_that_import_each_other_are_pickled_by_value(caller: Caller) -> None:
    caller.write(
        {
            "script.py": """
                import one
                from submit import submit
                submit(lambda: (one.count(3), one.two.one is one))
            """,
            "one.py": "import two\ndef count(n): return [n, *two.count(n - 1)]",
            "two.py": "import one\ndef count(n): return one.count(n) if n else [0]",
        }
    )
    caller.submit("script.py")
    assert caller.run() == ([3, 2, 1, 0], True)


def test_module_pickled_by_value_exists_only_once_in_the_task(caller: Caller) -> None:
    caller.write(
        {
            "script.py": """
                import counter
                from counter import add
                from submit import submit

                def main():
                    add(); counter.add(); counter.COUNT += 1
                    return counter.COUNT, counter.current()

                submit(main)
            """,
            "counter.py": """
                COUNT = 0
                def add():
                    global COUNT
                    COUNT += 1
                def current(): return COUNT
            """,
        }
    )
    caller.submit("script.py")
    assert caller.run() == (3, 3)


def test_module_run_with_python_dash_m_is_pickled_by_value(caller: Caller) -> None:
    caller.write(
        {
            "package/__init__.py": "",
            "package/other.py": "def value(): return 'other'",
            "package/program.py": """
                from submit import submit
                from . import other
                from .other import value
                def main(): return value(), other.value(), __name__
                submit(main)
            """,
        }
    )
    caller.submit("-m", "package.program")
    assert caller.run() == ("other", "other", "__main__")


@pytest.mark.parametrize("arguments", [("-",), ("-i",)])
def test_functions_typed_at_a_prompt_are_pickled_by_value(caller: Caller, arguments: tuple[str, ...]) -> None:
    program = """
        from submit import submit
        BASE = 40
        def add(x): return BASE + x

        submit(add, 2)
    """
    caller.submit(*arguments, stdin=program)
    assert caller.run() == 42


def test_module_installed_by_pip_in_a_custom_folder_is_pickled_by_name(caller: Caller, tmp_path: Path) -> None:
    target = tmp_path / "target"  # pip install --target
    (target / "thing-1.0.dist-info").mkdir(parents=True)
    (target / "thing.py").write_text("def value(): return 1")
    caller.write({"script.py": "import thing; from submit import submit; submit(thing.value)"})
    path = f"{target}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    caller.submit("script.py", PYTHONPATH=path)
    done = caller.try_to_run()
    assert (done.returncode, "No module named 'thing'" in done.stderr) == (1, True), done.stderr


def test_installed_modules_and_the_standard_library_are_pickled_by_name() -> None:
    for function in (json.dumps, click.Command, Entrypoint, subprocess.run, cloudpickle.dumps):
        assert len(pickled(function)) < 100


# --- the workspace


def test_modules_in_the_workspace_are_pickled_by_name(caller: Caller) -> None:
    caller.write(
        {
            "script.py": """
                import helper, package.inner
                from submit import submit
                def main():
                    from helper import where  # a module as the task itself would import it
                    return where(), package.inner.__spec__.name, helper.LOCK.locked()
                submit(main, workspace=".")
            """,
            "helper.py": """
                import threading
                LOCK = threading.Lock()  # could not go by value
                def where(): return __file__
            """,
            "package/inner.py": "",
        }
    )
    caller.submit("script.py")
    assert caller.try_to_run().returncode == 1  # the workspace is not there
    shutil.copytree(caller.folder, caller.work, dirs_exist_ok=True)
    assert caller.run() == (str(caller.work / "helper.py"), "package.inner", False)


def test_modules_in_the_workspace_that_a_task_cannot_import_are_pickled_by_value(caller: Caller) -> None:
    caller.write(
        {
            "script.py": """
                import sys
                sys.path.insert(0, "src")
                import package.inner
                from submit import submit
                submit(package.inner.value, workspace=".")
            """,
            "src/package/__init__.py": "",
            "src/package/inner.py": "def value(): return 'by value'",
        }
    )
    caller.submit("script.py")
    shutil.copytree(caller.folder, caller.work, dirs_exist_ok=True)
    assert caller.run() == "by value"


# --- callables of all kinds


class Adder:
    def __init__(self, start: int) -> None:
        self.start = start

    def add(self, x: int) -> int:
        return self.start + x

    def __call__(self, x: int) -> int:
        return self.add(x)

    @classmethod
    def make(cls, x: int) -> int:
        return cls(1).add(x)

    def each(self) -> Any:
        yield self.start


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


@decorated
def plus_one(x: int) -> int:
    return x + 1


class TestKinds:
    @pytest.mark.parametrize(
        "function",
        [
            plus_one,
            lambda x: x + 1,
            functools.partial(operator.add, 1),
            functools.partial(Adder.add, Adder(1)),
            Adder(1),
            Adder(1).add,
            Adder.make,
            (1).__add__,
        ],
    )
    def test_pickled_functions_methods_and_objects_run_in_another_process(
        self, tmp_path: Path, function: Callable[..., Any]
    ) -> None:
        caller = Caller(tmp_path)
        caller.entrypoint.write_bytes(pickled(function, 41))
        assert caller.run() == 42

    def test_closure_is_pickled_with_its_variables(self) -> None:
        base = 40

        def add(x: int) -> int:
            return base + x

        assert run_here(pickled(add, x=2)) == 42

    @pytest.mark.parametrize("function", [Adder(1).each, functools.partial(Adder.each, Adder(1))])
    def test_generator_function_as_entrypoint_is_refused(self, function: Callable[..., Any]) -> None:
        with pytest.raises(EntrypointError, match=r"'Adder.each' is a generator function"):
            pickled(function)

    def test_async_generator_function_as_entrypoint_is_refused(self) -> None:
        async def numbers() -> Any:
            yield 1

        with pytest.raises(EntrypointError, match="is a generator function"):
            pickled(numbers)

    def test_pickling_a_command_is_refused(self) -> None:
        with pytest.raises(EntrypointError, match="command"):
            pickle_entrypoint(Entrypoint.from_command(["true"]))


# --- what cannot go

LOCK = threading.Lock()
REGISTRY = {"locks": [0, LOCK]}


@dataclasses.dataclass
class Model:
    name: str
    guard: Any = None


def uses_lock() -> None:
    LOCK.acquire()


def uses_registry() -> int:
    return len(REGISTRY)


def calls_uses_lock() -> None:
    uses_lock()


def has_default(lock: Any = LOCK) -> None:
    del lock


def nothing(*args: Any, **kwargs: Any) -> None:
    del args, kwargs


def _over_a_closure() -> Callable[[], Any]:
    connection = threading.Lock()
    return lambda: connection


class TestRefused:
    @pytest.mark.parametrize(
        ("entrypoint", "culprit"),
        [
            (Entrypoint(callable=uses_lock), "because of the global 'LOCK' (a lock)"),
            (
                Entrypoint(callable=uses_registry),
                "the global 'REGISTRY', in it the item 'locks', in it the item 1 (a lock)",
            ),
            (Entrypoint(callable=calls_uses_lock), "the global 'uses_lock', in it the global 'LOCK' (a lock)"),
            (Entrypoint(callable=has_default), "a default value (a lock)"),
            (
                Entrypoint(callable=_over_a_closure()),
                "the variable 'connection' of a function around it (a lock)",
            ),
            (Entrypoint(callable=nothing, args=(1, LOCK)), "argument 1 (a lock)"),
            (Entrypoint(callable=nothing, kwargs={"key": LOCK}), "the argument 'key' (a lock)"),
            (
                Entrypoint(callable=nothing, args=(Model("m", guard=[LOCK]),)),
                "argument 0, in it the attribute 'guard', in it the item 0 (a lock)",
            ),
            (Entrypoint(callable=functools.partial(nothing, LOCK)), "the arguments, in it the item 0 (a lock)"),
            (Entrypoint(callable=LOCK.acquire), "the callable itself (a builtin_function_or_method)"),
        ],
    )
    def test_pickling_error_names_the_part_that_cannot_be_pickled(self, entrypoint: Entrypoint, culprit: str) -> None:
        with pytest.raises(EntrypointError) as raised:
            pickle_entrypoint(entrypoint)
        text = str(raised.value)
        assert culprit in text
        assert "cannot pickle '_thread.lock' object" in text
        assert "workspace" in text
        assert text.startswith("the callable '")

    def test_pickling_error_for_a_deeply_nested_argument_names_the_recursion(self) -> None:
        deep: list[Any] = []
        for _ in range(20_000):
            deep = [deep]
        with pytest.raises(
            EntrypointError, match=r"'nothing' .*argument 0(, in it the item 0){5} \(a list\).*recursion"
        ):
            pickled(nothing, deep)
        while deep:  # one by one: to drop it at once would be a recursion, too
            (deep,) = deep

    def test_error_for_a_too_large_pickle_names_its_largest_parts(self) -> None:
        with pytest.raises(ResourceExhaustedError, match=r"'nothing' .* 70\.0 MiB .* 64 MiB\. .*load"):
            pickled(nothing, bytes(70 * 1024**2))

    def test_pickle_just_below_the_size_limit_is_accepted(self) -> None:
        assert len(pickled(nothing, bytes(MAX_ENTRYPOINT_BYTES - 10_000))) <= MAX_ENTRYPOINT_BYTES


# --- what it leaves behind


class TestRegistry:
    def test_pickling_leaves_the_cloudpickle_registry_unchanged(self) -> None:
        before = cloudpickle.list_registry_pickle_by_value()
        pickled(plus_one)
        with pytest.raises(EntrypointError):
            pickled(uses_lock)
        assert cloudpickle.list_registry_pickle_by_value() == before

    def test_pickling_keeps_modules_that_the_user_has_registered(self) -> None:
        module = sys.modules[__name__]
        cloudpickle.register_pickle_by_value(module)
        try:
            pickled(plus_one)
            assert __name__ in cloudpickle.list_registry_pickle_by_value()
        finally:
            cloudpickle.unregister_pickle_by_value(module)

    def test_pickling_in_many_threads_leaves_the_registry_unchanged(self) -> None:
        before = cloudpickle.list_registry_pickle_by_value()
        gate = threading.Barrier(8)
        by_value: list[bool] = []

        def submit() -> None:
            gate.wait()
            for _ in range(6):
                by_value.append(b"_make_function" in pickled(plus_one))

        threads = [threading.Thread(target=submit) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert by_value == [True] * 48
        assert cloudpickle.list_registry_pickle_by_value() == before

    def test_argument_that_pickles_another_callable_while_it_is_pickled_is_accepted(self) -> None:
        class Submits:
            def __reduce__(self) -> Any:
                return bytes.__len__, (pickled(plus_one),)

        assert run_here(pickled(lambda size: size > 0, Submits())) is True


def test_request_contains_the_python_version_of_the_pickle() -> None:
    done = subprocess.run([sys.executable, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"Python {python_version()}.")
