"""Workspaces on their way to a cluster: what is left out is said once, and what the cluster has is not sent again."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from support.cluster import unique

from iris.client import IrisClient
from iris.client.workspace_upload import WorkspaceUpload
from iris.errors import InvalidArgumentError

MIB = 1024**2


def test_links_out_of_the_workspace_are_left_out_and_one_notice_is_sent(client: IrisClient, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    folder = tmp_path / "ws"
    folder.mkdir()
    (folder / "a.py").write_text("print(1)")
    for name in ("data", "more", "other", "self"):
        (folder / name).symlink_to(tmp_path / "data")
    notices: list[str] = []
    command = ["sh", "-c", "ls -A; echo end"]
    job = client.run(command, name=unique("links"), workspace=folder, on_notice=notices.append)
    job.wait()
    assert [line.message for line in job.logs() if line.source == "stdout"] == ["a.py", "end"]
    assert len(notices) == 1
    assert f"'data' (a link that leads out of the folder, to '{tmp_path}/data')" in notices[0]
    assert notices[0].endswith("and 1 more")


def test_notice_is_printed_on_stderr_by_default(
    client: IrisClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "way-out").symlink_to("/")
    client.run(["true"], name=unique("links"), workspace=tmp_path).wait()
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "iris: not sent with the workspace: 'way-out' (a link that leads out of the folder, to '/')"
    ]


def test_workspace_that_the_cluster_already_has_is_not_sent_again(client: IrisClient, tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(os.urandom(3 * MIB))
    stages: list[tuple[str, int, int]] = []
    for _ in range(2):
        job = client.run(
            ["sh", "-c", "wc -c < weights"],
            name=unique("sent"),
            workspace=tmp_path,
            on_progress=lambda *told: stages.append(told),
        )
        job.wait()
        assert [line.message for line in job.logs() if line.source == "stdout"] == [str(3 * MIB)]
    sent = [(done, total) for stage, done, total in stages if stage == "sending"]
    assert sent[0][0] == 0
    assert sent == sorted(sent), "sent once"
    assert sent[-1][0] == sent[-1][1] > 3 * MIB
    assert [done for stage, done, _ in stages if stage == "packing"].count(3 * MIB) >= 2


@pytest.mark.parametrize("stage", ["packing", "sending"])
def test_error_raised_by_on_progress_reaches_the_caller(client: IrisClient, tmp_path: Path, stage: str) -> None:
    (tmp_path / "weights").write_bytes(os.urandom(3 * MIB))
    name = unique("sent")

    def stop(at: str, done: int, total: int) -> None:
        if at == stage:
            raise RuntimeError(f"no more {at}")

    with pytest.raises(RuntimeError, match=f"^no more {stage}$"):
        client.run(["true"], name=name, workspace=tmp_path, on_progress=stop)
    client.run(["true"], name=name, workspace=tmp_path).wait()  # nothing was submitted


def test_slow_packing_of_a_workspace_sends_one_notice(tmp_path: Path) -> None:
    """The clock of this test is the notice itself: chunks are reported until it comes."""
    notices: list[str] = []
    with WorkspaceUpload(str(tmp_path), notices.append).reported("packing") as report:
        end = time.monotonic() + 30
        while not notices and time.monotonic() < end:
            report(10_000_000, 60_000_000)
        report(20_000_000, 60_000_000)
    assert len(notices) == 1
    assert "packing the workspace" in notices[0]
    assert "10 of 60 MB" in notices[0]


def test_quick_packing_of_a_workspace_sends_no_notice(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    notices: list[str] = []
    WorkspaceUpload(str(tmp_path), notices.append).pack()
    assert not notices


def test_workspace_link_to_itself_is_refused(client: IrisClient, tmp_path: Path) -> None:
    (tmp_path / "self").symlink_to("self")
    with pytest.raises(InvalidArgumentError, match="workspace must be an existing folder"):
        client.run(["true"], workspace=tmp_path / "self")
