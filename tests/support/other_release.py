"""Runs a worker that claims to have another release of Iris, or another Python: `other_release.py VERSION PYTHON
OPTIONS…`.

With an empty version, the worker behaves like 0.1.0, which sends no version and cannot drain.
"""

from __future__ import annotations

import sys
from typing import Any

from iris import versions


def main() -> None:
    version, python = sys.argv[1:3]
    del sys.argv[1:3]
    versions.VERSION = version
    if python:
        versions.python_version = lambda: python
    if not version:
        from iris.rpc.cluster_connect import WorkerServiceASGIApplication

        plain = WorkerServiceASGIApplication.__init__

        def without_drain(self: Any, *args: Any, **kwargs: Any) -> None:
            plain(self, *args, **kwargs)
            calls = self._endpoints
            self._endpoints = lambda service: {
                path: call for path, call in calls(service).items() if not path.endswith("/Drain")
            }

        WorkerServiceASGIApplication.__init__ = without_drain  # type: ignore[method-assign]
        versions.why_not_together = lambda *_: ""
    from iris.cluster.worker.__main__ import main as worker

    worker()


if __name__ == "__main__":
    main()
