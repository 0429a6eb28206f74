"""Text for an output that may lack characters: an ASCII locale, or a pipe of another program."""

from __future__ import annotations

import codecs
import io

from iris.errors import IrisError

# Our own typography, in ASCII. All else that an output lacks is written as a backslash escape.
_PLAIN = {"…": "...", "→": "->", "\u2013": "-", "\u2014": "-", "\u2018": "'", "\u2019": "'"}
REPLACING = "iris.replacing"  # an error handler, as `errors=` of Python's encoders and streams takes it


def _replace(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_PLAIN.get(character) or _escape(character) for character in lacking), error.end


def _escape(character: str) -> str:
    return character.encode("ascii", errors="backslashreplace").decode("ascii")


codecs.register_error(REPLACING, _replace)


class ReplacingStream(io.TextIOBase):
    """A text stream that replaces what it lacks.

    It has no `buffer`: click writes UTF-8 into that of an ASCII stream, whatever reads it.

    Args:
        stream: A stream of Python's, as `sys.stdout`.
    """

    def __init__(self, stream: io.TextIOWrapper) -> None:
        stream.reconfigure(errors=REPLACING)
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """As the stream has it."""
        return self._stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """As the stream has it."""
        return self._stream.errors

    def write(self, text: str) -> int:
        """Write text.

        Raises:
            BrokenPipeError: Nobody reads it any more.
            IrisError: It cannot be written, as to a full disk.
        """
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise cannot_write(error) from error

    def flush(self) -> None:
        """Write what is held back. Raises as `write` does."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise cannot_write(error) from error

    def fileno(self) -> int:
        """The descriptor."""
        return self._stream.fileno()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._stream.isatty()

    def writable(self) -> bool:
        """It is."""
        return True


def cannot_write(error: OSError) -> IrisError:
    """Return the error for output that the system does not take."""
    return IrisError(f"cannot write the output: {error.strerror}")


def encode_text(text: str, encoding: str) -> bytes:
    """Return the text in an encoding; what it lacks is replaced, so this never fails."""
    try:
        return text.encode(encoding, errors=REPLACING)
    except LookupError:  # no such encoding
        return text.encode("ascii", errors=REPLACING)


def has_all_characters(encoding: str) -> bool:
    """Return whether every character can be written in an encoding."""
    try:
        return codecs.lookup(encoding).name.startswith("utf")
    except LookupError:
        return False
