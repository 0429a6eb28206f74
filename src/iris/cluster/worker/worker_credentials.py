"""Defines the credentials with which the engines start workers."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from iris.errors import FailedPreconditionError


@dataclass(frozen=True, repr=False)
class WorkerCredentials:
    """The credentials with which a worker is started.

    Attributes:
        token: The token with which the worker registers.
        token_key: The public key that verifies the cluster's tokens. If empty, the worker accepts the key that the
            controller sends at the registration.
    """

    token: str
    token_key: bytes = b""

    def to_json(self) -> str:
        """Return the credentials as JSON for `read`."""
        return json.dumps({"token": self.token, "token_key": self.token_key.hex()})

    @classmethod
    def read(cls, path: str) -> WorkerCredentials:
        """Read credentials from a file. A path `/dev/fd/N` names an inherited descriptor, which is closed after
        reading.

        Raises:
            FailedPreconditionError: The file cannot be read or does not contain valid credentials.
        """
        try:
            descriptor = re.fullmatch(r"/dev/fd/(\d+)", path)
            if descriptor is not None:
                with os.fdopen(int(descriptor[1])) as pipe:
                    text = pipe.read()
            else:
                text = Path(path).read_text(encoding="utf-8")
            known = json.loads(text)
            return cls(known["token"], bytes.fromhex(known.get("token_key", "")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise FailedPreconditionError(
                f"--credentials {path} cannot be read ({type(error).__name__});"
                " expected a JSON file with token and token_key"
            ) from None
