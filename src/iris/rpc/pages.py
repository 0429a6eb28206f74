"""Cuts long lists into pages. The size of each page is limited, even if the caller requests no size.

A page token records where the next page begins. In lists that only grow (jobs in the order of their submission, tasks
by their index), the token contains the number of the next item. In lists whose items can disappear (workers, machines,
endpoints), the token contains the name of the next item. An item that exists while all pages are read is on exactly one
page, whatever else changes.

A page is made in steps (serving/steps.py), so that a large page does not block the event loop.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message

from iris.arguments import MAX_INT32, check_whole_number
from iris.errors import InvalidArgumentError, quoted
from iris.rpc.serving.steps import Steps

# The largest number of items on a page.
LONGEST_PAGE = 1000
# The largest size of a page in bytes. Clients in other languages accept messages of this size by default.
PAGE_BYTES = 4 * 1024 * 1024

Item = TypeVar("Item", bound=Message)


@dataclass(slots=True)
class Page(Generic[Item]):
    """Some items of a list, and the token of the next page. On the last page, `next_token` is empty."""

    items: list[Item]
    next_token: str


def cut_page(
    what: str,
    total: int,
    make: Callable[[int], Item],
    *,
    page_size: int,
    page_token: str,
    most_bytes: int = PAGE_BYTES,
) -> Steps[Page[Item]]:
    """Make a page of a list of numbered items, such as jobs. The list only grows.

    Args:
        what: The name of the list, for example "jobs". A token is valid for one list only.
        total: The present number of items in the list.
        make: A function that makes the message of the item with a given number.
        page_size: The largest number of items on the page. 0 means `LONGEST_PAGE`, which also limits larger numbers.
        page_token: The `next_token` of the previous page. Empty for the first page.
        most_bytes: The largest size of all items together. A page has at least one item if the list has more.

    Raises:
        InvalidArgumentError: `page_size` is negative, or `page_token` was not made for this list.
    """
    check_whole_number("page_size", page_size, most=MAX_INT32)
    number = number_in(what, page_token, total) if page_token else 0
    end = min(total, number + _limit(page_size))
    items: list[Item] = []
    size = 0
    while number < end:
        item = make(number)
        size += item.ByteSize()
        if items and size > most_bytes:
            break
        items.append(item)
        number += 1
        yield
    return Page(items, page_token_of(what, number) if number < total else "")


def cut_named_page(
    what: str,
    names: Sequence[str],
    make: Callable[[str], Item | None],
    *,
    page_size: int,
    page_token: str,
    most_bytes: int = PAGE_BYTES,
) -> Steps[Page[Item]]:
    """Make a page of a list of named items, such as workers. Between two pages, items may disappear.

    Args:
        what: The name of the list, see `cut_page`.
        names: The sorted names of all present items.
        make: A function that makes the message of the item with a given name. It returns None if the item has
            disappeared.
        page_size: The largest number of items, see `cut_page`.
        page_token: The `next_token` of the previous page. Empty for the first page.
        most_bytes: The largest size of all items together, see `cut_page`.

    Raises:
        InvalidArgumentError: `page_size` is negative, or `page_token` was not made for this list.
    """
    check_whole_number("page_size", page_size, most=MAX_INT32)
    after = _name_of(what, page_token)
    at = 0 if after is None else bisect_right(names, after)
    items: list[Item] = []
    size, limit = 0, _limit(page_size)
    while at < len(names) and len(items) < limit:
        item = make(names[at])
        if item is not None:
            size += item.ByteSize()
            if items and size > most_bytes:
                break
            items.append(item)
        at += 1
        yield
    return Page(items, f"{what}:{names[at - 1]}" if at < len(names) else "")


def page_token_of(what: str, number: int) -> str:
    """Return the token of the page that begins with the item of a given number."""
    return f"{what}-{number}"


def _limit(page_size: int) -> int:
    return min(page_size or LONGEST_PAGE, LONGEST_PAGE)


def _name_of(what: str, token: str) -> str | None:
    if not token:
        return None
    list_name, colon, name = token.partition(":")
    if list_name != what or not colon:
        raise _wrong_token(token)
    return name


def number_in(what: str, token: str, most: int) -> int:
    """Return the number that a page token contains.

    Raises:
        InvalidArgumentError: The token was not made for this list, or its number is higher than `most`.
    """
    name, _, digits = token.rpartition("-")
    if name != what or not (digits.isascii() and digits.isdecimal()) or len(digits) > 18 or int(digits) > most:
        raise _wrong_token(token)
    return int(digits)


def _wrong_token(token: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"page_token={quoted(token)}: expected the next_page_token of an earlier page of the same list"
    )
