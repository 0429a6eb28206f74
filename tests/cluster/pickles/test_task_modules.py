"""One class in a task, wherever the caller's modules are: every layout of a project, with real files and processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.callers import Caller, write_sources

CONF = """
    from dataclasses import dataclass
    from enum import Enum

    MISSING = object()

    class Mode(Enum):
        TRAIN = "train"

    @dataclass
    class Config:
        mode: Mode = Mode.TRAIN

    def is_missing(value=MISSING):
        return value is MISSING
"""
# Imported by the task alone, so it always comes from the worker's disk.
HEAVY = """
    from {package}conf import MISSING, Config, Mode, is_missing

    def check(cfg, missing):
        return [cfg.mode is Mode.TRAIN, isinstance(cfg, Config), missing is MISSING, is_missing(), is_missing(missing)]
"""
SUBMIT_CONFIG = """
    from submit import submit
    from {package}conf import MISSING, Config, Mode

    def task(cfg, missing):
        from {package}heavy import check
        return check(cfg, missing)

    if __name__ == "__main__":
        submit(task, Config(), MISSING)
"""
ONE_CLASS = [True] * 5


def write_project(caller: Caller, package: str, init: bool = True) -> None:
    """Write `conf.py` and `heavy.py` below `src`, in a package where one is named."""
    prefix = f"{package}." if package else ""
    place = f"src/{package.replace('.', '/')}/" if package else "src/"
    sources = {f"{place}conf.py": CONF, f"{place}heavy.py": HEAVY.format(package=prefix)}
    if package and init:
        sources[f"{place}__init__.py"] = ""
    caller.write({**sources, "script.py": SUBMIT_CONFIG.format(package=prefix)})


def pythonpath(*folders: Path) -> str:
    return os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.fixture
def caller(tmp_path: Path) -> Caller:
    return Caller(tmp_path)


@pytest.mark.parametrize(
    ("package", "init"), [("", True), ("myproj", True), ("myproj", False), ("space.deeper.myproj", False)]
)
def test_project_on_pythonpath_has_one_copy_of_each_class(caller: Caller, package: str, init: bool) -> None:
    write_project(caller, package, init)
    caller.submit("script.py", PYTHONPATH=pythonpath(caller.folder / "src"))
    assert caller.run(PYTHONPATH=pythonpath(caller.folder / "src")) == ONE_CLASS


@pytest.mark.parametrize(("package", "init"), [("myproj", True), ("myproj", False), ("space.myproj", True)])
def test_project_in_another_folder_on_the_worker_has_one_copy_of_each_class(
    caller: Caller, tmp_path: Path, package: str, init: bool
) -> None:
    write_project(caller, package, init)
    shutil.copytree(caller.folder / "src", tmp_path / "elsewhere")
    caller.submit("script.py", PYTHONPATH=pythonpath(caller.folder / "src"))
    assert caller.run(PYTHONPATH=pythonpath(tmp_path / "elsewhere")) == ONE_CLASS


def test_project_in_the_working_directory_has_one_copy_of_each_class(caller: Caller) -> None:
    write_project(caller, "myproj")
    caller.submit("script.py", PYTHONPATH=pythonpath(caller.folder / "src"))
    caller.work = caller.folder / "src"
    assert caller.run() == ONE_CLASS


def test_modules_beside_a_script_in_the_working_directory_have_one_copy_of_each_class(caller: Caller) -> None:
    caller.write({"conf.py": CONF, "heavy.py": HEAVY.format(package=""), "script.py": SUBMIT_CONFIG.format(package="")})
    caller.submit("script.py")
    caller.work = caller.folder
    assert caller.run() == ONE_CLASS


def test_src_folder_of_the_workspace_on_pythonpath_has_one_copy_of_each_class(caller: Caller) -> None:
    write_project(caller, "myproj")
    source = (caller.folder / "script.py").read_text()
    (caller.folder / "script.py").write_text(source.replace("MISSING)\n", 'MISSING, workspace=".")\n'))
    caller.submit("script.py", PYTHONPATH=pythonpath(caller.folder / "src"))
    shutil.copytree(caller.folder, caller.work, dirs_exist_ok=True)
    assert caller.run(PYTHONPATH=pythonpath(Path("src"))) == ONE_CLASS


def test_editable_install_has_one_copy_of_each_class(caller: Caller, tmp_path: Path) -> None:
    write_project(caller, "myproj")
    site = tmp_path / "site"
    info = site / "myproj-0.dist-info"
    info.mkdir(parents=True)
    (site / "myproj.pth").write_text(f"{caller.folder / 'src'}\n")
    (info / "direct_url.json").write_text('{"url": "file:///src", "dir_info": {"editable": true}}')
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: myproj\nVersion: 0\n")
    # As site-packages is read: the folders in .pth files are for importing, too.
    (tmp_path / "start" / "sitecustomize.py").parent.mkdir()
    (tmp_path / "start" / "sitecustomize.py").write_text(f"import site; site.addsitedir({str(site)!r})")
    path = pythonpath(tmp_path / "start")
    caller.submit("script.py", PYTHONPATH=path)
    assert caller.run(PYTHONPATH=path) == ONE_CLASS


FINDER = """
    import importlib.util, sys
    class Finder:  # as setuptools makes one for an editable install
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "myproj":
                return importlib.util.spec_from_file_location(name, {file!r})
    sys.meta_path.append(Finder)
"""


def test_editable_install_with_an_import_finder_has_one_copy_of_each_class(caller: Caller, tmp_path: Path) -> None:
    write_project(caller, "myproj")
    file = str(caller.folder / "src" / "myproj" / "__init__.py")
    write_sources(tmp_path / "start", {"sitecustomize.py": FINDER.format(file=file)})
    path = pythonpath(tmp_path / "start")
    caller.submit("script.py", PYTHONPATH=path)
    assert caller.run(PYTHONPATH=path) == ONE_CLASS


@pytest.mark.parametrize("package", ["myproj", "myproj.tools"])
def test_program_run_with_python_dash_m_has_one_copy_of_each_class(caller: Caller, package: str) -> None:
    folder = package.replace(".", "/")
    caller.write(
        {
            f"src/{folder}/__init__.py": "",
            f"src/{folder}/conf.py": CONF,
            f"src/{folder}/heavy.py": HEAVY.format(package=f"{package}."),
            f"src/{folder}/program.py": SUBMIT_CONFIG.format(package=f"{package}."),
        }
    )
    path = pythonpath(caller.folder / "src", caller.folder)
    caller.submit("-m", f"{package}.program", PYTHONPATH=path)
    assert caller.run(PYTHONPATH=path) == ONE_CLASS


def test_sent_subclass_extends_the_class_of_the_imported_module(caller: Caller) -> None:
    caller.write(
        {
            "src/base.py": "class Base:\n    @classmethod\n    def of(cls): return cls.__name__",
            "src/derived.py": "from base import Base\nclass Derived(Base):\n    def name(self): return super().of()",
            "script.py": """
                from submit import submit
                import derived
                class Local(derived.Derived): pass
                def task(local):
                    import base, derived as again
                    return [isinstance(local, base.Base), isinstance(local, again.Derived), local.name(),
                            again is derived, derived.Base is base.Base]
                submit(task, Local())
            """,
        }
    )
    path = pythonpath(caller.folder / "src")
    caller.submit("script.py", PYTHONPATH=path)
    assert caller.run(PYTHONPATH=path) == [True, True, "Local", True, True]


def test_function_made_in_an_imported_module_uses_its_globals(caller: Caller) -> None:
    caller.write(
        {
            "src/counter.py": """
                COUNT = []
                def make():
                    return lambda: COUNT.append(1) or len(COUNT)
            """,
            "script.py": """
                from submit import submit
                import counter
                count = counter.make()
                def task():
                    import counter
                    counter.COUNT.append(0)
                    return count(), len(counter.COUNT)
                submit(task)
            """,
        }
    )
    path = pythonpath(caller.folder / "src")
    caller.submit("script.py", PYTHONPATH=path)
    assert caller.run(PYTHONPATH=path) == (2, 2)


# --- another version on the worker


def write_other_version(caller: Caller, folder: Path, package: str) -> None:
    shutil.copytree(caller.folder / "src", folder)
    conf = folder / package.replace(".", "/") / "conf.py"
    conf.write_text(conf.read_text() + "\nVERSION = 'of the worker'\n")


@pytest.mark.parametrize("init", [True, False])
def test_import_of_another_version_fails_with_both_files_and_advice(caller: Caller, tmp_path: Path, init: bool) -> None:
    write_project(caller, "myproj", init)
    write_other_version(caller, tmp_path / "elsewhere", "myproj")
    caller.submit("script.py", PYTHONPATH=pythonpath(caller.folder / "src"))
    done = caller.try_to_run(PYTHONPATH=pythonpath(tmp_path / "elsewhere"))
    failure = Path(f"{caller.result}.failure").read_text()
    assert done.returncode == 1
    assert failure.startswith("ModuleNotFoundError: No module named 'myproj.heavy': 'myproj.conf' is the copy")
    assert str(caller.folder / "src/myproj/conf.py") in failure
    assert str(tmp_path / "elsewhere/myproj/conf.py") in failure
    assert "workspace" in failure
    assert "install it" not in failure


def test_other_modules_import_the_sent_copy_of_a_module(caller: Caller, tmp_path: Path) -> None:
    caller.write(
        {
            "src/conf.py": CONF,
            "src/heavy.py": HEAVY.format(package=""),
            "script.py": SUBMIT_CONFIG.format(package=""),
        }
    )
    write_other_version(caller, tmp_path / "elsewhere", "")
    caller.submit("script.py", PYTHONPATH=pythonpath(caller.folder / "src"))
    # What was not sent of conf.py (MISSING) cannot be imported; nothing falls back to the other conf.py.
    done = caller.try_to_run(PYTHONPATH=pythonpath(tmp_path / "elsewhere"))
    failure = Path(f"{caller.result}.failure").read_text()
    assert failure.startswith("ImportError: cannot import name 'MISSING' from 'conf'")
    assert "the task has only the part of 'conf' that the callable refers to, from " in failure
    assert "workspace" in done.stderr
    source = (caller.folder / "script.py").read_text()
    (caller.folder / "script.py").write_text(source.replace("import MISSING,", "import is_missing, MISSING,"))
    text = (caller.folder / "script.py").read_text().replace("    from heavy", "    is_missing\n    from heavy")
    (caller.folder / "script.py").write_text(text)
    caller.submit("script.py", PYTHONPATH=pythonpath(caller.folder / "src"))
    assert caller.run(PYTHONPATH=pythonpath(tmp_path / "elsewhere")) == ONE_CLASS


@pytest.mark.parametrize("name", ["test", "colorsys", "certifi", "myhelpers"])
def test_module_beside_the_script_with_the_name_of_a_worker_module_works(
    caller: Caller, tmp_path: Path, name: str
) -> None:
    caller.write(
        {
            f"{name}.py": "def value(): return 'of the caller'",
            "script.py": f"""
                from submit import submit
                import {name}
                def task():
                    import importlib
                    return {name}.value(), importlib.import_module({name!r}) is {name}
                submit(task)
            """,
        }
    )
    (caller.work / "myhelpers.py").write_text("def value(): return 'of the worker'")
    (caller.folder / "submit.py").write_text(
        "import importlib.metadata, sys\nmine = sys.path.pop(0)\nimport certifi\n"
        f"sys.modules.pop({name!r}, None)\n" + (caller.folder / "submit.py").read_text() + "\nsys.path.insert(0, mine)"
    )
    caller.submit("script.py")
    assert caller.run() == ("of the caller", True)


def test_module_changed_on_disk_after_its_import_runs_in_the_callers_version(caller: Caller) -> None:
    caller.write(
        {
            "src/helper.py": "def value(): return 'old'",
            "script.py": """
                from pathlib import Path
                from submit import submit
                import helper
                Path(helper.__file__).write_text("def value(): return 'new'")
                def task():
                    import importlib
                    return helper.value(), importlib.import_module("helper") is helper
                submit(task)
            """,
        }
    )
    path = pythonpath(caller.folder / "src")
    caller.submit("script.py", PYTHONPATH=path)
    assert caller.run(PYTHONPATH=path) == ("old", True)


def test_function_replaced_in_its_module_runs_in_the_callers_version(caller: Caller) -> None:
    caller.write(
        {
            "src/helper.py": "def value(): return 'old'\ndef get(): return value()",
            "script.py": """
                from submit import submit
                import helper
                def value(): return 'new'
                value.__module__ = "helper"
                helper.value = value
                def task():
                    import helper as again
                    return helper.get(), again.get(), again is helper
                submit(task)
            """,
        }
    )
    path = pythonpath(caller.folder / "src")
    caller.submit("script.py", PYTHONPATH=path)
    assert caller.run(PYTHONPATH=path) == ("new", "new", True)


def test_import_of_a_module_missing_on_the_worker_returns_the_sent_copy(caller: Caller) -> None:
    caller.write(
        {
            "src/plots.py": """
                import os
                if "NO_DISPLAY" in os.environ:
                    raise SystemExit("no display")
                class Plot: pass
                def value(): return 'sent'
            """,
            "script.py": """
                from submit import submit
                import plots
                def task():
                    import plots as again
                    return plots.value(), again is plots
                submit(task)
            """,
        }
    )
    path = pythonpath(caller.folder / "src")
    caller.submit("script.py", PYTHONPATH=path)
    assert caller.run(PYTHONPATH=path, NO_DISPLAY="1") == ("sent", True)


def test_import_of_a_different_version_of_a_sent_module_fails(caller: Caller, tmp_path: Path) -> None:
    caller.write(
        {
            "src/myproj/__init__.py": "",
            "src/myproj/conf.py": "def value(): return 1",
            "script.py": """
                from submit import submit
                from myproj.conf import value
                submit(value)
            """,
        }
    )
    write_sources(tmp_path / "elsewhere", {"myproj/__init__.py": "raise RuntimeError('it ran')"})
    caller.submit("script.py", PYTHONPATH=pythonpath(caller.folder / "src"))
    assert caller.run(PYTHONPATH=pythonpath(tmp_path / "elsewhere")) == 1


def test_installed_module_of_a_namespace_package_stays_importable(caller: Caller, tmp_path: Path) -> None:
    caller.write(
        {
            "src/space/mine.py": "def value(): return 'mine'",
            "script.py": """
                from submit import submit
                import space.mine
                def task():
                    from space import installed, mine
                    return space.mine.value(), installed.value(), mine is space.mine
                submit(task)
            """,
        }
    )
    write_sources(tmp_path / "installed", {"space/installed.py": "def value(): return 'installed'"})
    caller.submit("script.py", PYTHONPATH=pythonpath(caller.folder / "src"))
    assert caller.run(PYTHONPATH=pythonpath(tmp_path / "installed")) == ("mine", "installed", True)


# --- jobs of jobs


@pytest.mark.parametrize("importable", [True, False])
def test_child_job_has_one_copy_of_each_class(caller: Caller, importable: bool) -> None:
    write_project(caller, "myproj")
    caller.write(
        {
            "script.py": """
                from submit import submit
                from myproj.conf import Config, Mode, MISSING, is_missing
                def inner(cfg, missing):
                    import myproj.conf as conf
                    return [cfg.mode is conf.Mode.TRAIN, isinstance(cfg, conf.Config), missing is conf.MISSING,
                            conf.is_missing(), is_missing(missing)]
                def task():
                    from iris.cluster.client.pickling import pickle_entrypoint
                    from iris.cluster.types import Entrypoint
                    return pickle_entrypoint(Entrypoint.from_callable(inner, Config(), MISSING))
                if __name__ == "__main__":
                    submit(task)
            """
        }
    )
    path = pythonpath(caller.folder / "src")
    caller.submit("script.py", PYTHONPATH=path)
    env = {"PYTHONPATH": path} if importable else {}
    caller.entrypoint.write_bytes(caller.run(**env))
    assert caller.run(PYTHONPATH=path) == ONE_CLASS
    assert caller.run() == ONE_CLASS


# --- results


RESULT = """
    import os, sys, pickle
    from pathlib import Path
    from submit import submit
    from myproj.conf import MISSING, Config, Mode
    from iris.cluster.pickles.loading import load_here

    class Local:
        def of(self): return helper()

    def helper(): return Local

    class Broken(Exception): pass

    def task():
        return {"config": Config(), "missing": MISSING, "local": Local(), "function": helper, "error": Broken(1)}

    if __name__ == "__main__" and len(sys.argv) == 1:
        submit(task)
    else:
        got = load_here(Path(os.environ["RESULT"]).read_bytes())
        method = Local.of
        assert type(got["config"]) is Config
        assert got["config"].mode is Mode.TRAIN
        assert got["missing"] is MISSING
        assert type(got["local"]) is Local
        assert got["function"] is helper
        assert type(got["error"]) is Broken
        assert Local.of is method and Local().of() is Local
"""


@pytest.mark.parametrize("importable", [True, False])
def test_results_are_instances_of_the_callers_classes(caller: Caller, importable: bool) -> None:
    write_project(caller, "myproj")
    caller.write({"script.py": RESULT})
    path = pythonpath(caller.folder / "src")
    caller.submit("script.py", PYTHONPATH=path)
    assert caller.try_to_run(**({"PYTHONPATH": path} if importable else {})).returncode == 0
    env = {**os.environ, "PYTHONPATH": path, "RESULT": str(caller.result), "ENTRYPOINT": ""}
    subprocess.run([sys.executable, "script.py", "again"], cwd=caller.folder, env=env, check=True)


def test_loading_results_does_not_change_the_callers_modules(caller: Caller) -> None:
    caller.write(
        {
            "src/counter.py": """
                COUNT = [0]
                TOTAL = 0
                class Flag:
                    def __init__(self): self.on = False
                FLAG = Flag()
                def add():
                    global TOTAL
                    COUNT.append(1); TOTAL += 1; FLAG.on = True
                    return COUNT, TOTAL, FLAG
            """,
            "script.py": """
                import os, sys
                from pathlib import Path
                from submit import submit
                import counter
                from iris.cluster.pickles.loading import load_here
                def task():
                    counter.add()
                    return counter.add, counter.COUNT, counter.FLAG
                if len(sys.argv) == 1:
                    submit(task)
                else:
                    add, count, flag = load_here(Path(os.environ["RESULT"]).read_bytes())
                    assert add is counter.add
                    assert (count, flag.on, type(flag)) == ([0, 1], True, counter.Flag)
                    assert (counter.COUNT, counter.TOTAL, counter.FLAG.on) == ([0], 0, False)
            """,
        }
    )
    path = pythonpath(caller.folder / "src")
    caller.submit("script.py", PYTHONPATH=path)
    for env in ({}, {"PYTHONPATH": path}):
        assert caller.try_to_run(**env).returncode == 0
        ask = {**os.environ, "PYTHONPATH": path, "RESULT": str(caller.result), "ENTRYPOINT": ""}
        subprocess.run([sys.executable, "script.py", "again"], cwd=caller.folder, env=ask, check=True)


# --- data of modules

REGISTRY = """
    MODELS = {}
    ORDER = []
    class Registry:
        def __init__(self): self.names = set()
    NAMES = Registry()
    def register(function):
        MODELS[function.__name__] = function
        ORDER.append(function.__name__)
        NAMES.names.add(function.__name__)
        return function
"""
PLUGINS = """
    from registry import register
    @register
    def resnet(): return 50
"""
REGISTERING = """
    from submit import submit
    from registry import MODELS, NAMES, ORDER, register
    @register
    def mine(): return 1
    def task():
        import plugins, registry
        same = [MODELS is registry.MODELS, ORDER is registry.ORDER, NAMES is registry.NAMES]
        return {name: model() for name, model in MODELS.items()}, ORDER, sorted(NAMES.names), same
    if __name__ == "__main__":
        submit(task{workspace})
"""


@pytest.mark.parametrize("layout", ["PYTHONPATH", "workspace"])
def test_object_shared_by_the_script_and_a_module_stays_one_object_in_the_task(caller: Caller, layout: str) -> None:
    workspace = ', workspace="src"' if layout == "workspace" else ""
    script = REGISTERING.replace("{workspace}", workspace)
    caller.write({"src/registry.py": REGISTRY, "src/plugins.py": PLUGINS, "script.py": script})
    path = pythonpath(caller.folder / "src")
    caller.submit("script.py", PYTHONPATH=path)
    shutil.copytree(caller.folder / "src", caller.work, dirs_exist_ok=True)
    names = ["mine", "resnet"]
    assert caller.run() == ({"mine": 1, "resnet": 50}, names, names, [True] * 3)


SETTINGS = """
    import argparse
    from pathlib import Path
    class Config:
        def __init__(self): self.rate = 0.1; self.sizes = [1]
    DEBUG = False
    OPTIONS = {"rate": 0.1}
    CONFIG = Config()
    args = None
    HOME = Path(__file__).parent
    def read():
        return DEBUG, OPTIONS, CONFIG.rate, CONFIG.sizes, args.batch, CONFIG.me is CONFIG
    def where():
        return __file__, Path(__file__).parent
"""
SETTING = """
    import argparse, os, sys
    from os import environ
    from submit import submit
    import settings
    from settings import CONFIG, OPTIONS
    def task():
        import reader
        return settings.read(), reader.read(), CONFIG.rate, OPTIONS["rate"], settings.where()[0], environ["WHO"]
    if __name__ == "__main__":
        settings.DEBUG = True
        settings.OPTIONS["rate"] = CONFIG.rate = 0.5
        CONFIG.sizes.append(2)
        CONFIG.me = CONFIG
        settings.args = argparse.Namespace(batch=32)
        submit(task)
"""


def test_globals_set_by_the_caller_are_visible_to_all_modules_in_the_task(caller: Caller) -> None:
    reader = "import settings\ndef read(): return settings.DEBUG, settings.args.batch, settings.CONFIG.rate"
    caller.write({"src/settings.py": SETTINGS, "src/reader.py": reader, "script.py": SETTING})
    elsewhere = caller.folder / "elsewhere"
    shutil.copytree(caller.folder / "src", elsewhere)
    caller.submit("script.py", PYTHONPATH=pythonpath(caller.folder / "src"), WHO="caller")
    assert caller.run(PYTHONPATH=pythonpath(elsewhere), WHO="worker") == (
        (True, {"rate": 0.5}, 0.5, [1, 2], 32, True),
        (True, 32, 0.5),
        0.5,
        0.5,
        str(elsewhere / "settings.py"),
        "worker",
    )


def test_error_for_an_unsent_attribute_of_a_module_contains_advice(caller: Caller) -> None:
    caller.write(
        {
            "helper.py": "def sent(): return 1\ndef not_sent(): return 2",
            "script.py": """
                from submit import submit
                from helper import sent
                def task():
                    import helper
                    return sent() + helper.not_sent()
                submit(task)
            """,
        }
    )
    caller.submit("script.py")
    done = caller.try_to_run()
    assert "module 'helper' has no attribute 'not_sent'" in done.stderr
    assert "only the part of 'helper' that the callable refers to" in done.stderr
