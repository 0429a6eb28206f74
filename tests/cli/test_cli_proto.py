"""`iris proto export`: the schema that the package carries."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import click
import pytest

from iris.cli.program import program
from iris.errors import FailedPreconditionError

REPOSITORY = Path(__file__).parents[2]
NAME = "iris/rpc/cluster.proto"


def export(*arguments: str) -> None:
    program.main(["proto", "export", *arguments], standalone_mode=False)


def test_proto_export_replaces_an_earlier_schema(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "new" / "schema"
    export(str(directory))
    assert capfd.readouterr().out == f"{directory / NAME}\n"
    (directory / NAME).write_text("// an earlier release")
    export(str(directory))
    assert (directory / NAME).read_bytes() == (REPOSITORY / "proto" / NAME).read_bytes()


def test_proto_export_with_json_names_the_folder_and_the_files(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    export(str(tmp_path), "--json")
    assert json.loads(capfd.readouterr().out) == {"path": str(tmp_path), "files": [NAME]}


def test_proto_export_to_an_unwritable_folder_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(FailedPreconditionError) as caught:
        export(str(tmp_path / "taken"))
    assert str(caught.value) == f"cannot write {tmp_path / 'taken' / NAME}: Not a directory; name another folder"


def test_proto_export_without_a_folder_name_is_refused() -> None:
    with pytest.raises(click.MissingParameter) as caught:
        export()
    assert caught.value.format_message() == "Missing argument 'DIR'."


@pytest.mark.parametrize("target", ["wheel", "sdist"])
def test_built_packages_contain_the_proto_files(target: str) -> None:
    build = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"][target]
    assert build["force-include"] == {"proto": "iris/proto"} if target == "wheel" else "proto" in build["include"]
