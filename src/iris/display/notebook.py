"""Finds the notebook in which this program runs. IPython is never imported here, because a notebook has imported it."""

from __future__ import annotations

import sys
from typing import Any


def shell() -> Any | None:
    """Return the shell of IPython that runs this program, or None outside IPython."""
    ipython = sys.modules.get("IPython")
    get_ipython = getattr(ipython, "get_ipython", None)
    return None if get_ipython is None else get_ipython()


def is_notebook() -> bool:
    """Return whether this program runs in a notebook, whose page can replace what was shown earlier. IPython in a
    terminal is not a notebook. Only the shells of kernels have the attribute `kernel`.
    """
    return getattr(shell(), "kernel", None) is not None


class Html:
    """HTML that a notebook shows.

    Args:
        html: The HTML. Text of users and tasks must be escaped in it.
        text: The content as plain text, for front ends without HTML.
    """

    def __init__(self, html: str, text: str) -> None:
        self._html = html
        self._text = text

    def __repr__(self) -> str:
        return self._text

    def _repr_html_(self) -> str:
        return self._html


class Cell:
    """An output area in a notebook. Its content can be replaced. Creating the object shows the first content.

    Args:
        first: The content that the output area shows at first.

    Raises:
        RuntimeError: This program does not run in IPython.
    """

    def __init__(self, first: Html) -> None:
        display = getattr(sys.modules.get("IPython.display"), "display", None)
        if display is None:
            raise RuntimeError("progress in a notebook needs IPython, which is not loaded in this process")
        self._handle = display(first, display_id=True)

    def show(self, content: Html) -> None:
        """Replace the content. Any thread may call this method."""
        if self._handle is not None:
            self._handle.update(content)
