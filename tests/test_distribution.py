"""The wheel and the sdist contain what users and packagers need."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist."""
    target = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(target)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return target


def test_wheel_contains_the_page_the_licenses_and_the_schema(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    page = {f"iris/web/assets/{file.name}" for file in (ROOT / "src/iris/web/assets").iterdir()}
    assert {f"iris/web/assets/{name}" for name in ("index.html", "app.js", "worker.js", "licenses.txt")} <= page
    assert page <= names
    assert "iris/proto/iris/rpc/cluster.proto" in names
    assert "iris/py.typed" in names
    assert [name for name in names if name.endswith(".dist-info/licenses/LICENSE")]
    assert [name for name in names if not name.startswith(("iris/", "iris_cluster-"))] == []


def test_sdist_contains_the_documents_and_the_sources_of_the_page(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    documents = {"README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "docs/README.md"}
    assert documents | {"web/package.json", "proto/iris/rpc/cluster.proto", "tests/conftest.py"} <= names
