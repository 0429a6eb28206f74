"""The recipes of docs/cookbook run as they are printed: all blocks of a page, in order, against one cluster.

The words after the language of a block say what to do with it:

* `file=NAME` writes the block into a file.
* `machine=other` runs the block with another home directory, and without the address and token of the cluster.
* A block `text` is the output of the block before it on stdout. `…` stands for any text.
* Other blocks of `python` and `sh` are run. Other languages are only shown.
* A free port takes the place of each of the ports 8000 and 8080, which may be in use on this machine.

The blocks of use-a-notebook.md are cells of IPython.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.cluster import running_cluster
from support.ports import free_port
from support.waiting import wait_until

from iris.client import IrisClient
from iris.cluster.client.server_process import LocalServer

COOKBOOK = Path(__file__).parents[1] / "docs" / "cookbook"
PAGES = sorted(COOKBOOK.glob("*.md"))
_LINES_OF_A_SCREEN = 80  # A recipe is short enough to be read at once.
_CELLS = """\
import sys
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()
for cell in sys.stdin.read().split("\\0"):
    shell.run_cell(cell, store_history=True).raise_error()
"""


@dataclass(frozen=True)
class Block:
    """A block of code of a page: its language, its attributes such as `file`, and its text."""

    language: str
    attributes: dict[str, str]
    text: str


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of code of a page."""
    text = re.sub(r"\b80[08]0\b", str(free_port()), page.read_text())
    found = re.findall(r"^```(\w+)(.*?)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(language, dict(re.findall(r"(\w+)=(\S+)", words)), text) for language, words, text in found]


class Reader:
    """A reader of the cookbook, who types its blocks in an empty folder.

    Args:
        folder: The folder for the files of the recipe, and for the home directories.
        address: The address of the cluster.
    """

    def __init__(self, folder: Path, address: str) -> None:
        self.folder = folder / "recipe"
        self.folder.mkdir()
        self._homes = folder
        self._address = address

    def environment(self, machine: str = "") -> dict[str, str]:
        """Return the environment of a machine. Only the machine "" has the address and the token of the cluster."""
        home = self._homes / f"home-{machine}"
        home.mkdir(exist_ok=True)
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        common = {**os.environ, "PATH": programs, "HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config")}
        if machine:
            del common["IRIS_TOKEN"]
            return common | {"IRIS_URL": self._address}
        return common | {"IRIS_CONTROLLER_ADDRESS": self._address}

    def run(self, command: list[str], machine: str = "", text: str | None = None) -> str:
        """Run a command in the folder, and return its stdout. Fail if it fails."""
        ran = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment(machine),
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, f"{command[-1]}\n--- stdout:\n{ran.stdout}\n--- stderr:\n{ran.stderr}"
        return ran.stdout

    def follow(self, blocks: list[Block]) -> None:
        """Do what the blocks say, in order."""
        output = ""
        program = ""
        for block in blocks:
            if name := block.attributes.get("file"):
                (self.folder / name).write_text(block.text)
                (self.folder / name).chmod(0o755)
            elif block.language == "python":
                # A later block of a page may use the names of an earlier one, whose output is not shown again.
                output = self.run([sys.executable, "-c", program + block.text], block.attributes.get("machine", ""))
                program += f"{block.text}\n"
            elif block.language == "sh":
                output = self.run(["bash", "-euo", "pipefail", "-c", block.text], block.attributes.get("machine", ""))
            elif block.language == "text":
                assert_output(output, block.text)


def assert_output(output: str, expected: str) -> None:
    """Fail if an output differs from the text of a page, in which `…` stands for any text."""
    pattern = ".*?".join(re.escape(part) for part in expected.strip().split("…"))
    assert re.search(rf"(?:^|\n){pattern}$", output.strip(), re.DOTALL), f"expected:\n{expected}\ngot:\n{output}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """The cluster of all recipes."""
    with running_cluster(tmp_path_factory.mktemp("recipes"), workers=2) as started:
        yield started


@pytest.fixture
def reader(server: LocalServer, tmp_path: Path) -> Reader:
    """A reader with an empty folder."""
    return Reader(tmp_path, server.address)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_recipe_of_the_cookbook_works_as_printed(page: Path, reader: Reader) -> None:
    for program in {"curl", "jq"} & set(re.findall(r"\w+", page.read_text())):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")
    blocks = blocks_of(page)
    assert len(blocks) >= 2
    follow_page(page, reader)


@pytest.mark.long
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_recipe_of_the_cookbook_works_again_in_the_same_folder(page: Path, reader: Reader) -> None:
    follow_page(page, reader)
    shutil.rmtree(reader.folder / "checkpoints", ignore_errors=True)  # A training continues from its checkpoints.
    follow_page(page, reader)


def follow_page(page: Path, reader: Reader) -> None:
    """Do what a page says, in order."""
    blocks = blocks_of(page)
    if page.stem == "use-a-notebook":
        reader.run([sys.executable, "-c", _CELLS], text="\0".join(block.text for block in blocks))
    else:
        reader.follow(blocks)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_recipe_of_the_cookbook_fits_a_screen(page: Path) -> None:
    assert len(page.read_text().splitlines()) <= _LINES_OF_A_SCREEN


def test_training_recipe_continues_from_its_checkpoint_after_a_kill_of_its_worker(
    server: LocalServer, reader: Reader
) -> None:
    (script,) = [block for block in blocks_of(COOKBOOK / "train-with-checkpoints.md") if "file" in block.attributes]
    # The first attempt stops at its fourth step, so that it cannot end before its worker is killed.
    pause = 'time.sleep(600 if state["step"] > 3 and os.environ["IRIS_ATTEMPT_ID"] == "0" else 0)'
    stopping = script.text.replace("time.sleep(0.05)", pause)
    assert pause in stopping
    (reader.folder / "train.py").write_text(stopping)
    checkpoints = reader.folder / "checkpoints"
    with IrisClient.remote(server.address) as client:
        words = ["sh", "-c", f"echo $PPID > worker; exec {sys.executable} train.py {checkpoints}"]
        job = client.run(words, working_directory=str(reader.folder))
        wait_until((checkpoints / "task-0.json").exists, "the first checkpoint")
        os.kill(int((reader.folder / "worker").read_text()), signal.SIGKILL)
        status = job.wait()
        lines = [entry.message for entry in job.logs()]
    assert status.preemption_count == 1
    assert lines[0] == "attempt 0 begins at step 0"
    (step,) = [re.fullmatch(r"attempt 1 begins at step (\d+)", line) for line in lines[1:-1]]
    assert step is not None
    assert 1 <= int(step[1]) <= 3
    assert lines[-1] == "weight 2.97"
