"""Determines which releases of Iris work together, and the version of Python.

The parts of a cluster may have neighbouring releases, so that machines can be upgraded one after the other. Releases
that are further apart are not tested together. A part whose release is further apart is refused with an explanation.
"""

from __future__ import annotations

import re
import sys

# The version of this distribution. A test compares this version with the installed one.
VERSION = "0.1.0"
# A server or client that sends no version is assumed to have this version.
FIRST = "0.1.0"
_FORM = re.compile(r"(\d{1,6})\.(\d{1,6})(?!\d)\S{0,40}", re.ASCII)


def why_not_together(theirs: str, whose: str, ours: str, who_we_are: str) -> str:
    """Return the reason why two parts of a cluster do not work together. Return an empty string if they work together.

    Two parts work together if the first numbers of their versions are equal and the second numbers differ by at most 1.

    Args:
        theirs: The version of the other part.
        whose: The name of the other part in the returned text, for example "it".
        ours: The version of this part.
        who_we_are: The name of this part in the returned text, for example "this controller".
    """
    known = [_FORM.fullmatch(version) for version in (theirs, ours)]
    (their_major, their_minor), (our_major, our_minor) = (
        (int(match[1]), int(match[2])) if match else (-1, -1) for match in known
    )
    if their_major == our_major != -1 and abs(their_minor - our_minor) <= 1:
        return ""
    return (
        f"{whose} has Iris {theirs[:40]}, {who_we_are} has {ours[:40]}; install neighbouring releases, for example"
        f" iris-cluster=={our_major}.{our_minor}.* where {whose} runs"
    )


def python_version() -> str:
    """Return the version of this Python, for example `"3.11"`. Code that is pickled by value needs the same version."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"
