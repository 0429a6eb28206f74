"""Stores logs at the log location. The log location is a URL of fsspec, for example in an object store or a shared file
system. The files of a log (see cluster/logs/segments.py) are in the folder `{url}/{task}/{attempt}/`. The file `end` is
written last.

All methods of `LogLocation` block on the network. The file systems of fsspec raise exceptions of many types, so the
methods convert each exception to an error of Iris.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from iris.cluster.logs.segments import END, LogEnd, is_file_name, list_files, parse_end
from iris.errors import InvalidArgumentError, IrisError, MissingExtraError, UnavailableError
from iris.system.private_dir import inherited_umask


class LogLocation:
    """The place to which complete logs are copied.

    Args:
        url: A URL of fsspec, for example `s3://bucket/logs` or `file:///mnt/logs`. The file system finds its
            credentials itself.

    Raises:
        MissingExtraError: fsspec is not installed.
        InvalidArgumentError: fsspec does not know the protocol, a package for it is missing, or the URL is incomplete.
        UnavailableError: The connection to the file system failed. Some file systems do not connect before the first
            copy.
    """

    def __init__(self, url: str) -> None:
        try:
            from fsspec.core import url_to_fs
        except ImportError as error:
            raise MissingExtraError(what="Keeping logs at a URL", extra="storage") from error
        self.url = url.rstrip("/")
        with self._our_errors("reach"):
            try:
                self._files, root = url_to_fs(url)
            except (ImportError, TypeError, ValueError) as error:
                raise InvalidArgumentError(f"logs cannot be kept at {url!r}: {error}") from error
        self._root = str(root).rstrip("/")
        protocol = self._files.protocol  # The protocol of a file system of fsspec is one name or a tuple of names.
        self._is_local = "file" in ((protocol,) if isinstance(protocol, str) else protocol)
        self._closed = threading.Event()

    def close(self) -> None:
        """Stop all copies in progress. A copy in another thread ends after its current file."""
        self._closed.set()

    def check(self) -> None:
        """Write a small file and remove it, to test the permissions.

        Raises:
            UnavailableError: The file cannot be written. The message contains the reason.
        """
        path = f"{self._root}/.iris"
        with self._our_errors("write to"):
            self._make_directory(self._root)
            self._files.pipe_file(path, b"Iris keeps logs here.\n")
            self._files.rm_file(path)

    def store(self, directory: Path, name: str) -> None:
        """Copy the files of a log to the log location. Files that the log location already has in full size are not
        copied. The file `end` is copied last.

        Raises:
            UnavailableError: A file could not be copied.
        """
        path = f"{self._root}/{name}"
        with self._our_errors("write to"):
            there = self._sizes(path)
            self._make_directory(path)
            for file in list_files(directory):
                if there.get(file.name) != file.stat().st_size:
                    self._check_open()
                    self._files.put_file(str(file), f"{path}/{file.name}")
                    self._apply_users_umask(f"{path}/{file.name}", 0o666)

    def fetch(self, name: str, directory: Path) -> None:
        """Copy the files of a log from the log location to this machine. The file `end` is copied last. If the log
        location does not have the log, no file is copied.

        Raises:
            UnavailableError: A file could not be copied.
        """
        path = f"{self._root}/{name}"
        with self._our_errors("read from"):
            for file in sorted(self._sizes(path), key=lambda file: (file == END, file)):
                self._check_open()
                beside = directory / f"{file}.new"
                self._files.get_file(f"{path}/{file}", str(beside))
                os.replace(beside, directory / file)

    def end(self, name: str) -> LogEnd | None:
        """Return the content of a log's file `end` at the log location; None if the file is missing or damaged.

        Raises:
            UnavailableError: The log location could not be read.
        """
        with self._our_errors("read from"):
            try:
                text = self._files.cat_file(f"{self._root}/{name}/{END}")
            except FileNotFoundError:
                return None
        try:
            return parse_end(text)
        except ValueError:
            return None

    def remove(self, name: str, on_removed: Callable[[], None] = lambda: None) -> None:
        """Remove a log. The file `end` is removed last, so that the end of a partly removed log can still be read. A
        missing log is not an error.

        Args:
            name: The name of the log at the log location.
            on_removed: A function that is called after the removal of each file.

        Raises:
            UnavailableError: A file could not be removed.
        """
        path = f"{self._root}/{name}"
        with self._our_errors("remove from"):
            for file in sorted(self._sizes(path), key=lambda file: file == END):
                self._files.rm_file(f"{path}/{file}")
                on_removed()

    def _make_directory(self, path: str) -> None:
        made = [str(each) for each in (Path(path), *Path(path).parents) if self._is_local and not each.exists()]
        self._files.makedirs(path, exist_ok=True)
        for directory in made:
            self._apply_users_umask(directory, 0o777)

    def _apply_users_umask(self, path: str, mode: int) -> None:
        """Set the permissions of a file or directory according to the user's umask. The controller itself runs with a
        stricter umask.
        """
        if self._is_local and inherited_umask() >= 0:
            os.chmod(path, mode & ~inherited_umask())

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise UnavailableError("the controller is shutting down")

    def _sizes(self, path: str) -> dict[str, int]:
        self._files.invalidate_cache(path)
        try:
            entries: list[dict[str, Any]] = self._files.ls(path, detail=True)
        except FileNotFoundError:
            return {}
        sizes = {str(entry["name"]).rpartition("/")[2]: int(entry["size"] or 0) for entry in entries}
        return {name: size for name, size in sizes.items() if is_file_name(name)}

    @contextlib.contextmanager
    def _our_errors(self, verb: str) -> Iterator[None]:
        try:
            yield
        except IrisError:
            raise
        except Exception as error:
            text = str(error).strip() or type(error).__name__
            raise UnavailableError(f"cannot {verb} the log location {self.url}: {text}") from error
