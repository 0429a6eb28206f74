"""The size of this machine, compared with what psutil finds."""

from __future__ import annotations

import psutil

from iris.system.machine_size import total_disk_bytes, total_memory_bytes


def test_memory_size_of_the_machine_equals_the_size_that_psutil_reports() -> None:
    assert total_memory_bytes() == psutil.virtual_memory().total


def test_disk_size_equals_the_size_that_psutil_reports() -> None:
    assert total_disk_bytes("/") == psutil.disk_usage("/").total
