"""The message about the state of the controller."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from iris.cluster.controller.overview.cluster_status import ClusterStatus
from iris.cluster.controller.submission.headroom import Headroom


def test_cluster_status_reports_an_unreadable_state_directory_as_a_shortage(tmp_path: Path) -> None:
    jobs: Any = SimpleNamespace(count=lambda: (2, 3))
    status = ClusterStatus("local", jobs, cast(Any, None), Headroom(tmp_path / "gone"), 30.0)
    message = status.message()
    assert message.shortage == "the state directory of the controller cannot be read: No such file or directory"
    assert (message.num_unfinished_jobs, message.disk_total_bytes) == (2, 0)
