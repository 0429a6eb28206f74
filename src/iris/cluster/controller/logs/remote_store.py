"""Logs at a URL: what fsspec can reach, an object store or a file system that several machines see.

    {url}/{task}/{attempt}/     the files of a log, as segments.py has them; `end` is the last to be written

Everything here blocks on the network. What a file system raises is its own affair, so whatever it is becomes one error
of ours.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from iris.cluster.logs.segments import END, LogEnd, is_file_name, list_files, parse_end
from iris.errors import InvalidArgumentError, IrisError, MissingExtraError, UnavailableError
from iris.system.private_dir import inherited_umask


class LogLocation:
    """A place for logs outside this machine.

    Args:
        url: As fsspec takes it, like `s3://bucket/logs`, `gs://…`, `file:///mnt/logs`. Credentials come from where the
            file system looks for them.

    Raises:
        MissingExtraError: fsspec is not installed.
        InvalidArgumentError: There is no such file system, or what it needs is not installed or not in the URL.
        UnavailableError: It connects at once, and cannot.
    """

    def __init__(self, url: str) -> None:
        try:
            from fsspec.core import url_to_fs
        except ImportError as error:
            raise MissingExtraError("Keeping logs at a URL", "storage") from error
        self.url = url.rstrip("/")
        with self._our_errors("reach"):
            try:
                self._files, root = url_to_fs(url)
            except (ImportError, TypeError, ValueError) as error:
                raise InvalidArgumentError(f"logs cannot be kept at {url!r}: {error}") from error
        self._root = str(root).rstrip("/")
        protocol = self._files.protocol  # one word, or several
        self._is_local = "file" in ((protocol,) if isinstance(protocol, str) else protocol)
        self._closed = threading.Event()

    def close(self) -> None:
        """Ends what is under way in other threads, after the file that it is at."""
        self._closed.set()

    def check(self) -> None:
        """Writes something small, and removes it.

        Raises:
            UnavailableError: It cannot be written; the text says why.
        """
        path = f"{self._root}/.iris"
        with self._our_errors("write to"):
            self._make_directory(self._root)
            self._files.pipe_file(path, b"Iris keeps logs here.\n")
            self._files.rm_file(path)

    def store(self, directory: Path, name: str) -> None:
        """Copies what is in the directory of a log, and is not there in its whole size yet; the end comes last.

        Raises:
            UnavailableError: Something of it could not be copied.
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
        """Copies a log to here, `end` last; nothing where there is none.

        Raises:
            UnavailableError: Something of it could not be copied.
        """
        path = f"{self._root}/{name}"
        with self._our_errors("read from"):
            for file in sorted(self._sizes(path), key=lambda file: (file == END, file)):
                self._check_open()
                beside = directory / f"{file}.new"
                self._files.get_file(f"{path}/{file}", str(beside))
                os.replace(beside, directory / file)

    def end(self, name: str) -> LogEnd | None:
        """The end of a log; None where there is none.

        Raises:
            UnavailableError: It could not be asked.
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

    def remove(self, name: str) -> None:
        """Removes a log; none where there is none.

        Raises:
            UnavailableError: Something of it could not be removed.
        """
        path = f"{self._root}/{name}"
        with self._our_errors("remove from"):
            for file in self._sizes(path):
                self._files.rm_file(f"{path}/{file}")

    def _make_directory(self, path: str) -> None:
        made = [str(each) for each in (Path(path), *Path(path).parents) if self._is_local and not each.exists()]
        self._files.makedirs(path, exist_ok=True)
        for directory in made:
            self._apply_users_umask(directory, 0o777)

    def _apply_users_umask(self, path: str, mode: int) -> None:
        """Let others read what lies outside the state directory as far as the user's umask says, not ours."""
        if self._is_local and inherited_umask() >= 0:
            os.chmod(path, mode & ~inherited_umask())

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise UnavailableError("this controller is being shut down")

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
            raise UnavailableError(f"cannot {verb} the place for logs {self.url}: {text}") from error
