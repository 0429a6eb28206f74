"""Writes text to an output that cannot represent some characters, for example in an ASCII locale."""

from __future__ import annotations

import codecs
import io

from iris.errors import IrisError

# ASCII replacements for special characters in messages of Iris. Other missing characters become backslash escapes.
_PLAIN = {"…": "...", "→": "->", "\u2013": "-", "\u2014": "-", "\u2018": "'", "\u2019": "'"}
# Iris registers an error handler for `str.encode` under this name. The handler replaces characters that an encoding
# lacks.
REPLACING = "iris.replacing"


def _replace(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_PLAIN.get(character) or _escape(character) for character in lacking), error.end


def _escape(character: str) -> str:
    return character.encode("ascii", errors="backslashreplace").decode("ascii")


codecs.register_error(REPLACING, _replace)


class ReplacingStream(io.TextIOBase):
    """A text stream that replaces all characters that do not exist in its encoding. The stream has no `buffer`
    attribute, because the library click would write UTF-8 into the buffer of an ASCII stream.

    Args:
        stream: The underlying stream, for example `sys.stdout`.
    """

    def __init__(self, stream: io.TextIOWrapper) -> None:
        stream.reconfigure(errors=REPLACING)
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the underlying stream."""
        return self._stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """The error handler of the underlying stream."""
        return self._stream.errors

    def write(self, text: str) -> int:
        """Write text.

        Raises:
            BrokenPipeError: The reader has closed the pipe.
            IrisError: The text cannot be written, for example because the disk is full.
        """
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise cannot_write(error) from error

    def flush(self) -> None:
        """Write buffered text. Raises the same errors as `write`."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise cannot_write(error) from error

    def fileno(self) -> int:
        """Return the file descriptor."""
        return self._stream.fileno()

    def isatty(self) -> bool:
        """Return whether the stream is a terminal."""
        return self._stream.isatty()

    def writable(self) -> bool:
        """Return True, because text can be written to the stream."""
        return True


def cannot_write(error: OSError) -> IrisError:
    """Return the error to raise if the system refuses to write output."""
    return IrisError(f"cannot write the output: {error.strerror}")


def encode_text(text: str, encoding: str) -> bytes:
    """Encode text, and replace characters that do not exist in the encoding. Encoding never fails."""
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
