"""Which releases work together."""

from __future__ import annotations

import importlib.metadata

import pytest

from iris.versions import FIRST, VERSION, why_not_together


def test_version_constant_equals_the_version_of_the_distribution() -> None:
    assert importlib.metadata.version("iris-cluster") == VERSION


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("0.1.0", "0.1.0"),
        ("0.1.0", "0.1.7"),
        ("0.1.0", "0.2.0"),
        ("0.9.3", "0.10.0"),
        ("0.2.0.dev3+local", "0.1.0"),
        ("1.4", "1.5rc1"),
    ],
)
def test_neighbouring_releases_of_iris_work_together(one: str, other: str) -> None:
    assert why_not_together(one, "it", other, "this controller") == ""
    assert why_not_together(other, "it", one, "this controller") == ""


@pytest.mark.parametrize(
    ("one", "other"), [("0.1.0", "0.3.0"), ("0.1.0", "1.1.0"), ("1.9.0", "2.0.0"), ("0.1.0", "1"), ("0.1.0", "neu")]
)
def test_releases_that_are_not_neighbours_are_reported_as_incompatible(one: str, other: str) -> None:
    text = why_not_together(other, "it", one, "this controller")
    assert text.startswith(f"it has Iris {other}, this controller has {one}; install")
    assert why_not_together(one, "it", other, "this controller")


def test_error_of_an_incompatible_version_names_compatible_versions() -> None:
    text = why_not_together("0.3.0", "it", "0.1.0", "this controller")
    assert text == (
        "it has Iris 0.3.0, this controller has 0.1.0; install neighbouring releases, for example iris-cluster==0.1.*"
        " where it runs"
    )
    assert why_not_together(FIRST, "it", VERSION, "this controller") == ""
