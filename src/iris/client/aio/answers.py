"""Defines attributes of async handles whose value is the answer of a call."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, NoReturn, TypeVar

from iris.errors import InvalidArgumentError

Value = TypeVar("Value")


class Answer(Generic[Value]):
    """An attribute of an async handle, for example `job.state`. `await job.state` calls the controller.

    Without the `await`, a comparison such as `job.state == "RUNNING"` would always be False. Therefore comparisons,
    `bool()` and `hash()` of an `Answer` raise an error.

    Args:
        name: The name of the attribute, for errors.
        call: A function that calls the controller.
    """

    def __init__(self, name: str, call: Callable[[], Coroutine[Any, Any, Value]]) -> None:
        self._name = name
        self._call = call

    def __await__(self) -> Generator[Any, None, Value]:
        return self._call().__await__()

    def __repr__(self) -> str:
        return f"<await {self._name}>"

    def __eq__(self, other: object) -> NoReturn:
        self._refuse()

    def __ne__(self, other: object) -> NoReturn:
        self._refuse()

    def __bool__(self) -> NoReturn:
        self._refuse()

    def __hash__(self) -> NoReturn:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise InvalidArgumentError(
            f"the value of {self._name} needs a call: write (await {self._name}), because this client is async"
        )
