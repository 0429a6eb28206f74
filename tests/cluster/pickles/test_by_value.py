"""What pickles as a bare name is made anew where that name cannot be found, or is refused at submission."""

from __future__ import annotations

import enum
import io
import sys
from pathlib import Path

import cloudpickle
import pytest
from support.callers import Caller, write_sources


@pytest.fixture
def caller(tmp_path: Path) -> Caller:
    return Caller(tmp_path)


DEFINITIONS = """
    import functools, typing
    from functools import cached_property, lru_cache, cache, singledispatch, singledispatchmethod, wraps

    CALLS = []

    @lru_cache(maxsize=7, typed=True)
    def fib(n):
        '''Fibonacci.'''
        CALLS.append(n)
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    fib.extra = "attribute"

    @cache
    def base(): return 40

    @lru_cache
    def calls_base(): return base() + 2

    class Model:
        def __init__(self, x): self.x = x
        @cached_property
        def squared(self): return self.x ** 2
        @lru_cache
        def plus(self, y): return self.x + y
        @staticmethod
        @cache
        def seven(): return 7
        @singledispatchmethod
        def show(self, value): return "any"
        @show.register
        def _(self, value: int): return "int"

    @singledispatch
    def show(value): return "any"
    @show.register(list)
    def show_list(value): return [show(item) for item in value]
    @show.register
    def _(value: Model): return f"model {value.x}"

    P = typing.ParamSpec("P")
    T = typing.TypeVar("T")
    Ts = typing.TypeVarTuple("Ts")
    UserId = typing.NewType("UserId", int)

    def logged(function: typing.Callable[P, T]) -> typing.Callable[P, T]:
        @wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
            return function(*args, **kwargs)
        return wrapper

    class Memo:
        def __init__(self, function):
            functools.update_wrapper(self, function)
            self.function, self.seen = function, {}
        def __call__(self, n):
            if n not in self.seen:
                self.seen[n] = self.function(n)
            return self.seen[n]

    @Memo
    def count(n): return 0 if n == 0 else 1 + count(n - 1)

    @logged
    def user(number: int) -> UserId: return UserId(number)

    class Missing:
        def __reduce__(self): return "MISSING"
    MISSING = Missing()

    def is_missing(value=MISSING): return value is MISSING
"""
CHECKS = """
    from submit import submit
    {imports}

    def local():
        @cache
        def inner(n): return n if n == 0 else n + inner(n - 1)
        return inner

    def task(cached, missing, inner, dispatcher):
        found = {{
            "fib": fib(20), "calls": len(CALLS), "info": fib.cache_parameters(), "doc": fib.__doc__,
            "extra": fib.extra, "wrapped": fib.__wrapped__.__name__, "is": cached is fib, "nested": calls_base(),
            "property": Model(3).squared, "method": Model(3).plus(4), "static": Model.seven(),
            "shown": show([1, Model(2)]), "dispatch": (Model(1).show(1), Model(1).show("")),
            "dispatcher": dispatcher is show, "memo": count(9), "user": user(5), "names": [P.__name__, Ts.__name__],
            "new type": UserId.__supertype__, "missing": (is_missing(), is_missing(missing), is_missing(1)),
            "local": inner(4),
        }}
        return found

    if __name__ == "__main__":
        submit(task, fib, MISSING, local(), show)
"""
RIGHT = {
    "fib": 6765,
    "calls": 21,  # a recursion through the global name hits the cache
    "info": {"maxsize": 7, "typed": True},
    "doc": "Fibonacci.",
    "extra": "attribute",
    "wrapped": "fib",
    "is": True,
    "nested": 42,
    "property": 9,
    "method": 7,
    "static": 7,
    "shown": ["any", "model 2"],
    "dispatch": ("int", "any"),
    "dispatcher": True,
    "memo": 9,
    "user": 5,
    "names": ["P", "Ts"],
    "new type": int,
    "missing": (True, True, False),
    "local": 10,
}
NAMES = "fib, CALLS, calls_base, Model, show, P, Ts, UserId, count, user, MISSING, is_missing"


def test_cached_and_dispatched_functions_of_the_script_run_in_a_task(caller: Caller) -> None:
    caller.write({"script.py": DEFINITIONS + CHECKS.format(imports="")})
    caller.submit("script.py")
    assert caller.run() == RIGHT


@pytest.mark.parametrize("importable", [False, True])
def test_cached_and_dispatched_functions_of_the_callers_modules_run_in_a_task(caller: Caller, importable: bool) -> None:
    imports = f"from functools import cache\n    from own import {NAMES}"
    caller.write({"own.py": DEFINITIONS, "script.py": CHECKS.format(imports=imports)})
    caller.submit("script.py")
    assert caller.run(**({"PYTHONPATH": str(caller.folder)} if importable else {})) == RIGHT


def test_cached_function_can_be_the_callable_of_a_job(caller: Caller) -> None:
    caller.write({"script.py": DEFINITIONS + "\n    from submit import submit\n    submit(fib, 20)\n"})
    caller.submit("script.py")
    assert caller.run() == 6765


def test_bound_methods_and_partials_of_cached_functions_run_in_a_task(caller: Caller) -> None:
    program = """
    from submit import submit
    def task(method, part, info): return method(4), part(), info().hits
    submit(task, Model(3).plus, functools.partial(fib, 10), fib.cache_info)
    """
    caller.write({"script.py": DEFINITIONS + program})
    caller.submit("script.py")
    assert caller.run() == (7, 55, 8)


def test_cached_function_of_an_installed_module_is_pickled_by_name(caller: Caller) -> None:
    caller.write(
        {
            "script.py": """
                import functools, linecache, re, fnmatch
                from submit import submit
                cached = fnmatch._compile_pattern
                assert isinstance(cached, type(functools.lru_cache(print)))
                def task():
                    import fnmatch
                    return cached is fnmatch._compile_pattern
                submit(task)
            """
        }
    )
    caller.submit("script.py")
    assert caller.run() is True


def test_object_that_cannot_be_pickled_is_refused_with_the_path_to_it(caller: Caller) -> None:
    caller.write(
        {
            "script.py": """
                import ctypes, copyreg
                from submit import submit
                from iris.errors import EntrypointError
                # As numpy.frompyfunc makes one: made in C, and pickled as a name.
                @ctypes.CFUNCTYPE(ctypes.c_int)
                def handler(): return 1
                copyreg.pickle(type(handler), lambda obj: "handler")
                def task(): return handler()
                try:
                    submit(task)
                except EntrypointError as error:
                    print(error)
                    text = str(error)
                    assert "the global 'handler'" in text, text
                    assert "pickles as a name only" in text, text
                    assert "a worker cannot find 'handler'" in text, text
                else:
                    raise SystemExit("it was sent")
            """
        }
    )
    caller.submit("script.py")


@pytest.mark.skipif(sys.version_info < (3, 12), reason="`type X = …` is of Python 3.12")
def test_type_aliases_of_the_script_work_in_a_task(caller: Caller) -> None:
    caller.write(
        {
            "script.py": """
                from submit import submit
                type Pair[T] = tuple[T, T]
                def task(): return Pair.__name__
                submit(task)
            """
        }
    )
    caller.submit("script.py")
    assert caller.run() == "Pair"


def test_cloudpickle_reductions_have_the_form_that_iris_expects() -> None:
    """Names the release of cloudpickle that breaks `iris.cluster.pickles`."""
    module = cloudpickle.cloudpickle
    pickler = cloudpickle.Pickler(io.BytesIO())

    def function() -> None: ...

    class Kind: ...

    class Color(enum.Enum):
        RED = 1

    call, arguments, *_, set_state = pickler.reducer_override(function)
    assert (call, set_state) == (module._make_function, module._function_setstate)
    assert (arguments[0], arguments[1]["__name__"], arguments[2]) == (function.__code__, __name__, None)
    for kind, make in ((Kind, module._make_skeleton_class), (Color, module._make_skeleton_enum)):
        call, arguments, *_, set_state = pickler.reducer_override(kind)
        assert (call, set_state) == (make, module._class_setstate)
        tracker_id, extra = arguments[-2:]
        assert extra is None
        assert module._DYNAMIC_CLASS_TRACKER_BY_ID[tracker_id] is kind


# Stand-ins for toolz and wrapt, in a folder where something is installed.
CURRIES = """
    import importlib
    class curry:
        def __init__(self, func, *args, **keywords):
            self.func, self.args, self.keywords = func, args, keywords
            self.__name__, self.__module__ = func.__name__, func.__module__
        def __call__(self, *args):
            call = self.args + args
            return self.func(*call) if len(call) == 2 else curry(self.func, *call)
        def __reduce__(self):
            return restore, (f"{self.__module__}:{self.__name__}",)
    def restore(name):
        module, _, name = name.partition(":")
        return getattr(importlib.import_module(module), name)
"""
WRAPT = """
    class FunctionWrapper:
        def __init__(self, wrapped, wrapper, enabled=None):
            self.__wrapped__, self._self_wrapper, self._self_enabled = wrapped, wrapper, enabled
        def __call__(self, *args):
            return self._self_wrapper(self.__wrapped__, None, args, {})
        def __reduce__(self):
            raise NotImplementedError("object proxy must define __reduce__()")
        @property
        def __class__(self):
            return type(self.__wrapped__)
"""


def test_functions_wrapped_by_installed_libraries_run_in_a_task(caller: Caller, tmp_path: Path) -> None:
    target = tmp_path / "target"  # pip install --target
    (target / "things-1.0.dist-info").mkdir(parents=True)
    write_sources(target, {"curries.py": CURRIES, "wrapt.py": WRAPT})
    program = """
        import curries, wrapt
        from submit import submit
        @curries.curry
        def add(a, b): return a + b
        def plus_one(wrapped, instance, args, kwargs): return wrapped(*args) + 1
        def down(n): return n if n == 0 else count(n - 1)
        count = wrapt.FunctionWrapper(down, plus_one)
        def task(): return add(1)(2), count(3)
        submit(task)
    """
    caller.write({"script.py": program})
    caller.submit("script.py", PYTHONPATH=str(target))
    assert caller.run(PYTHONPATH=str(target)) == (3, 4)
