"""Which versions of Iris work together, and which Python this is.

The parts of a cluster can be of neighbouring releases: so one machine can be brought up to date after the other. More
is not tried, since nobody has: who is further away is refused in words, before it can do harm.
"""

from __future__ import annotations

import re
import sys

VERSION = "0.1.0"  # of this distribution; a test compares it with what is installed
FIRST = "0.1.0"  # of who does not say: it has not known yet that it would be asked
_FORM = re.compile(r"(\d{1,6})\.(\d{1,6})(?!\d)\S{0,40}", re.ASCII)


def why_not_together(theirs: str, whose: str, ours: str, who_we_are: str) -> str:
    """Why two parts of a cluster do not work together; empty: they do. That is so where the first number of their
    versions is the same, and the second differs by one at most.

    Args:
        theirs: The version of the other side.
        whose: How a person calls the other side: "it".
        ours: This side's version.
        who_we_are: "this controller".
    """
    known = [_FORM.fullmatch(version) for version in (theirs, ours)]
    (their_major, their_minor), (our_major, our_minor) = (
        (int(match[1]), int(match[2])) if match else (-1, -1) for match in known
    )
    if their_major == our_major != -1 and abs(their_minor - our_minor) <= 1:
        return ""
    return (
        f"{whose} has Iris {theirs[:40]}, {who_we_are} has {ours[:40]}; install neighbouring releases: as"
        f" iris-cluster=={our_major}.{our_minor}.* where it runs"
    )


def python_version() -> str:
    """This Python, as `"3.11"`: another minor version cannot run what is pickled by value."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"
