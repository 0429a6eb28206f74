"""A file system of fsspec for tests, which can fail and can wait in the middle of a copy."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.local import LocalFileSystem


class OddFileSystem(LocalFileSystem):
    """A file system that stores its files below a local directory, as if they were on another machine.

    Attributes:
        error: What every call raises; None: they work.
        broken: Lists of folders whose paths contain this text fail; empty: none of them fails.
        copied: The names of the files that were copied there or back, in order.
        entered: Set when a copy has begun,
        go_on: which then waits for this.
        removing: Set when the removal of a file has begun,
        may_remove: which then waits for this.
    """

    protocol = "odd"
    cachable = False
    error: ClassVar[Exception | None] = None
    broken: ClassVar[str] = ""
    copied: ClassVar[list[str]] = []
    entered: ClassVar[threading.Event] = threading.Event()
    go_on: ClassVar[threading.Event] = threading.Event()
    removing: ClassVar[threading.Event] = threading.Event()
    may_remove: ClassVar[threading.Event] = threading.Event()

    def _copying(self, path: str) -> None:
        self._fail()
        type(self).copied.append(path.rpartition("/")[2])
        self.entered.set()
        assert self.go_on.wait(30)

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error

    def put_file(self, lpath: str, rpath: str, *args: Any, **kwargs: Any) -> None:
        self._copying(lpath)
        super().put_file(lpath, rpath, *args, **kwargs)

    def get_file(self, rpath: str, lpath: str, *args: Any, **kwargs: Any) -> None:
        # The file is opened before the wait, as by a server that has begun to answer. Therefore the copy succeeds even
        # if the file is removed during the wait.
        with open(str(self._strip_protocol(rpath)), "rb") as file:
            self._copying(rpath)
            Path(lpath).write_bytes(file.read())

    def rm_file(self, path: str) -> None:
        self._fail()
        self.removing.set()
        assert self.may_remove.wait(30)
        super().rm_file(path)

    def ls(self, path: str, detail: bool = False, **kwargs: Any) -> Any:
        self._fail()
        if self.broken and self.broken in path:
            raise OSError(f"{path} is broken")
        return super().ls(path, detail, **kwargs)

    def cat_file(self, *args: Any, **kwargs: Any) -> Any:
        self._fail()
        return super().cat_file(*args, **kwargs)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        self._fail()
        super().makedirs(path, exist_ok)


@contextmanager
def odd_files() -> Iterator[None]:
    """Register the protocol `odd://`, and reset the file system: no call fails or waits."""
    fsspec.register_implementation("odd", OddFileSystem, clobber=True)
    OddFileSystem.error = None
    OddFileSystem.broken = ""
    OddFileSystem.copied.clear()
    OddFileSystem.entered.clear()
    OddFileSystem.go_on.set()
    OddFileSystem.removing.clear()
    OddFileSystem.may_remove.set()
    try:
        yield
    finally:
        OddFileSystem.go_on.set()  # nobody waits for ever
        OddFileSystem.may_remove.set()
