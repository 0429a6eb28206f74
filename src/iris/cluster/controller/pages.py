"""Long lists, page by page.

A token names the number of the first item of the next page. Jobs are numbered in the order of their submission, tasks
by their index, and neither ever changes: whatever happens between two pages, each item comes once. What is new comes
last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message

from iris.arguments import MAX_INT32, check_whole_number
from iris.errors import InvalidArgumentError, ResourceExhaustedError

LONGEST_PAGE = 1000
_PAGE_BYTES = 4 * 1024 * 1024  # other clients take no larger message, unless they are told to
MOST_BYTES = 160 * 1024 * 1024  # of a list that comes at once, as of any message

Item = TypeVar("Item", bound=Message)


@dataclass(slots=True)
class Page(Generic[Item]):
    """Some items of a list. `next_token`: empty when they are the last."""

    items: list[Item]
    next_token: str


def cut_page(
    what: str,
    total: int,
    make: Callable[[int], Item],
    *,
    page_size: int,
    page_token: str,
    most_bytes: int = MOST_BYTES,
) -> Page[Item]:
    """A page of a list, or all of it where no size is given.

    Args:
        what: The items, in words: "jobs". Tokens of one list are no tokens of another.
        total: How many there are now.
        make: Makes the message of an item, by its number.
        page_size: At most so many; the page ends sooner where it would get too large.
        page_token: `next_token` of the page before; empty for the first.
        most_bytes: How large the answer may be at most, where no size is given.

    Raises:
        InvalidArgumentError: The size is negative, or the token none of this list.
        ResourceExhaustedError: All of it is too large for one message.
    """
    check_whole_number("page_size", page_size, most=MAX_INT32)
    number = _number_of(what, page_token, total)
    end = min(total, number + min(page_size, LONGEST_PAGE)) if page_size else total
    items: list[Item] = []
    size = 0
    while number < end:
        item = make(number)
        size += item.ByteSize()
        if page_size and items and size > _PAGE_BYTES:
            break
        if not page_size and size > most_bytes:
            raise ResourceExhaustedError(
                f"{total} {what} are more than the {most_bytes} bytes that an answer may have:"
                " set page_size, and ask for one page after the other"
            )
        items.append(item)
        number += 1
    return Page(items, f"{what}-{number}" if number < total else "")


def _number_of(what: str, token: str, total: int) -> int:
    if not token:
        return 0
    name, _, digits = token.rpartition("-")
    if name != what or not (digits.isascii() and digits.isdecimal()) or len(digits) > 9 or int(digits) > total:
        raise InvalidArgumentError(
            f"page_token={token!r}: expected the next_page_token of an earlier page of the same list"
        )
    return int(digits)
