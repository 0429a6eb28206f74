"""Reads and writes the file of contexts. A context is a cluster with a name: its address, a token and certificates.

`iris login` writes the file, which only its owner can read, because it contains tokens. The file lies in the user's
configuration directory: `$XDG_CONFIG_HOME/iris/contexts.json`, or `~/.config/iris/contexts.json`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from iris.cluster.client.running_cluster import user_home
from iris.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError, ResourceExhaustedError, quoted
from iris.rpc.address import parse_address
from iris.system.files import read_secret, write_secret
from iris.system.private_dir import check_owned, make_private

# The name that stands for the cluster of `iris up` on this machine. No context in the file has this name.
LOCAL = "local"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_FILES = ("ca", "cert", "cert_key")


@dataclass(frozen=True, slots=True)
class Context:
    """A cluster with a name.

    Attributes:
        name: The name of the context.
        address: The base URL of the controller.
        token: The token that calls to the cluster contain.
        ca: The path of the file with the certificate authority. Empty: the usual certificate authorities.
        cert: The path of the file with the client's certificate. Empty: the usual certificate, if any.
        cert_key: The path of the file with the key of `cert`. Empty: the key is in `cert`.
    """

    name: str
    address: str
    token: str = field(repr=False)
    ca: str = ""
    cert: str = ""
    cert_key: str = ""

    def certificate(self) -> str | tuple[str, str] | None:
        """Return the client's certificate in the form of the argument `cert` of `IrisClient.remote`."""
        return (self.cert, self.cert_key) if self.cert_key else self.cert or None


@dataclass(frozen=True, slots=True)
class Contexts:
    """The content of the file of contexts.

    Attributes:
        current: The name of the context that clients use if nothing else names a cluster. Empty: there is none.
        known: All stored contexts, by name.
    """

    current: str = ""
    known: Mapping[str, Context] = field(default_factory=dict)

    def find(self, name: str) -> Context:
        """Return the context with a name.

        Raises:
            NotFoundError: There is no such context.
        """
        if name not in self.known:
            existing = f"the contexts are {', '.join(sorted(self.known))}" if self.known else "there is no context yet"
            raise NotFoundError(
                f"no context {quoted(name)}: {existing}; 'iris login ADDRESS --name NAME' makes a context",
                metadata={"context": name},
            )
        return self.known[name]

    def with_context(self, context: Context) -> Contexts:
        """Return the contexts with this context added or replaced. The context becomes the current one."""
        return Contexts(context.name, {**self.known, context.name: context})

    def without(self, name: str) -> Contexts:
        """Return the contexts without the context of this name. If this was the current context, no context is current
        afterwards.
        """
        self.find(name)
        left = {other: context for other, context in self.known.items() if other != name}
        return Contexts("" if self.current == name else self.current, left)

    def with_current(self, name: str) -> Contexts:
        """Return the contexts, with the context of the given name as the current one. The name `local` means that no
        context is current.
        """
        return replace(self, current="" if name == LOCAL else self.find(name).name)


def contexts_path() -> Path:
    """Return the path of the file of contexts.

    Raises:
        FailedPreconditionError: This user has no home directory.
    """
    # A relative path is ignored, as the XDG base directory specification requires.
    given = os.environ.get("XDG_CONFIG_HOME", "")
    if os.path.isabs(given):
        return Path(given) / "iris" / "contexts.json"
    home = user_home()
    if home is None:
        raise FailedPreconditionError(
            "there is no directory for contexts, because this user has no home directory: set HOME or XDG_CONFIG_HOME"
            " to a writable directory"
        )
    return home / ".config" / "iris" / "contexts.json"


def read_contexts() -> Contexts:
    """Return the contexts in the file of contexts. If the file or the home directory is missing, the result has no
    contexts.

    Raises:
        FailedPreconditionError: Other users can read the file, or could have written it, or its content is not valid.
    """
    try:
        path = contexts_path()
    except FailedPreconditionError:
        return Contexts()
    try:
        text = read_secret(path)
        if text is None:
            return Contexts()
        check_owned(path.parent)
    except (PermissionError, NotADirectoryError, IsADirectoryError) as error:
        raise FailedPreconditionError(f"the file of contexts cannot be read: {error}") from error
    try:
        content = json.loads(text)
        known = {name: _read_context(name, entry) for name, entry in content["contexts"].items()}
        current = content.get("current") or ""
        return Contexts(current if current in known else "", known)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FailedPreconditionError(
            f"{path} is not a file of contexts ({error}): remove the file, and run 'iris login' again"
        ) from error


def find_context_at(address: str) -> Context | None:
    """Return the context with an address. Return None if no context has the address, or if several contexts have the
    address and none of them is current.

    Args:
        address: The base URL of a controller.

    Raises:
        FailedPreconditionError: The file of contexts cannot be used, for the reasons that `read_contexts` documents.
    """
    contexts = read_contexts()
    there = [context for context in contexts.known.values() if context.address == address]
    current = [context for context in there if context.name == contexts.current]
    return next(iter(current or there), None) if len(there) == 1 or current else None


def change_contexts(change: Callable[[Contexts], Contexts]) -> Contexts:
    """Call `change` with the content of the file of contexts, and write the content that `change` returns to the file.
    Return the new content. Meanwhile, other processes that want to change the file wait.

    Raises:
        FailedPreconditionError: The present file cannot be used, this user has no home directory, or the system is
            neither Linux nor macOS.
        ResourceExhaustedError: The file cannot be written.
    """
    if not hasattr(os, "getuid"):
        raise FailedPreconditionError(
            "contexts are kept on Linux and macOS only, because on other systems other users could read the tokens: set"
            " IRIS_CONTROLLER_ADDRESS and IRIS_TOKEN instead"
        )
    path = contexts_path()
    try:
        make_private(path.parent)
    except OSError as error:
        raise ResourceExhaustedError(f"cannot make the directory {path.parent}: {error.strerror}") from error
    check_owned(path.parent)
    with _locked(path):
        contexts = change(read_contexts())
        entries = {
            name: {"address": one.address, "token": one.token, **{key: getattr(one, key) for key in _FILES}}
            for name, one in sorted(contexts.known.items())
        }
        write_secret(path, json.dumps({"current": contexts.current, "contexts": entries}, indent=2) + "\n")
    return contexts


def check_context_name(name: str) -> str:
    """Check that a name is valid for a new context, and return the name.

    Raises:
        InvalidArgumentError: The name is not valid, or is `local`.
    """
    if not _NAME.fullmatch(name):
        raise InvalidArgumentError(
            "the name of a context must have 1 to 64 ASCII letters, digits, '.', '_' and '-', and begin with a letter"
            f" or a digit, got {quoted(name)}"
        )
    if name == LOCAL:
        raise InvalidArgumentError(
            f"the name {LOCAL!r} stands for the cluster of 'iris up' on this machine: choose another name"
        )
    return name


def _read_context(name: str, entry: Mapping[str, Any]) -> Context:
    texts = [entry["address"], entry["token"], *(entry.get(key, "") for key in _FILES)]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError(f"each value of context {quoted(name)} must be text")
    return Context(name, parse_address(texts[0]), *texts[1:])


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of the file of contexts while the `with` block runs."""
    from iris.system.locks import wait_for_lock  # `fcntl` is imported here, because Windows does not have it.

    try:
        lock = wait_for_lock(path.with_suffix(".lock"))
    except OSError as error:
        raise ResourceExhaustedError(f"cannot write to {path.parent}: {error.strerror}") from error
    try:
        yield
    finally:
        os.close(lock)
