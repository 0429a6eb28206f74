"""The options that several commands share, and the types of their values."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click

from iris.arguments import MAX_INT32, check_whole_number
from iris.cli.completion import complete_context
from iris.cli.environment_options import read_env_file, read_variable
from iris.cli.input_options import read_array
from iris.cluster.names import check_job_name, check_label, check_port_name
from iris.cluster.types import MAX_EXIT_CODE, parse_bytes
from iris.config import ClusterConfig, Option
from iris.config.kinds import EVENTS, FILE
from iris.cores import read_cores
from iris.durations import read_span
from iris.errors import InvalidArgumentError, quoted
from iris.moments import read_moment
from iris.rpc.address import parse_address

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

Command = TypeVar("Command", bound=Callable[..., Any])

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
ADDRESS_HELP = (
    "The address of the cluster. Default: IRIS_CONTROLLER_ADDRESS, or the context, or the cluster of 'iris up' here."
)
CONTEXT_HELP = (
    "The context with the cluster, as 'iris context list' shows it; 'local' is the cluster of 'iris up'. Default:"
    " IRIS_CONTEXT, or the context of 'iris context use'."
)
_CONTEXT_KEY = "iris.context"


def address_option(command: Command) -> Command:
    """Add the options `--address` and `--context`, which may also stand before the command.

    A command with these options gets only the address as an argument. `given_context` returns the context.
    """

    def or_of_the_group(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
        outer: str | None = context.find_root().obj
        return value or outer

    command = context_option(command)
    return click.option("--address", type=ADDRESS, callback=or_of_the_group, help=ADDRESS_HELP)(command)


def context_option(command: Command) -> Command:
    """Add the option `--context`. `given_context` returns its value."""

    def keep(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
        if value:
            # `click` has one `Context` for each nested command. All contexts of a command line share the dictionary
            # `meta`.
            context.meta[_CONTEXT_KEY] = value

    return click.option(
        "--context",
        metavar="NAME",
        callback=keep,
        expose_value=False,
        is_eager=True,
        help=CONTEXT_HELP,
        shell_complete=complete_context,
    )(command)


def given_context() -> str | None:
    """Return the value of the option `--context` of the running command, or None if the option was not given."""
    context = click.get_current_context(silent=True)
    name: str | None = None if context is None else context.meta.get(_CONTEXT_KEY)
    return name


def json_option(text: str = "Print one JSON document on stdout.") -> Callable[[Command], Command]:
    """Return a decorator that adds the option `--json` with the help `text`."""
    return click.option("--json", "as_json", is_flag=True, help=text)


def config_options(command: Command) -> Command:
    """Add a flag to a command for each option of a cluster's configuration. An option that the user does not give has
    the value None, or () if it can be given several times.
    """
    for option in reversed(ClusterConfig.options.values()):
        if option.flag:
            command = _config_option(option)(command)
    return command


def _config_option(option: Option) -> Callable[[Command], Command]:
    kind = option.kind
    if not kind.metavar:
        return click.option(option.flag, option.name, is_flag=True, default=None, help=option.help)

    def read(text: str) -> Any:
        if not text.strip():
            raise InvalidArgumentError(f"expected {kind.accepted}, got {quoted(text)}")
        return option.read([text])[0] if kind.repeated else option.read(text)

    value: click.ParamType[Any] = _Checked(kind.metavar, read)
    if kind.choices:
        value = click.Choice(kind.choices)
    elif kind is FILE:
        value = click.Path(exists=True, dir_okay=False, resolve_path=True)
    return click.option(
        option.flag,
        option.name,
        type=value,
        metavar=None if kind.choices else kind.metavar,
        multiple=kind.repeated,
        help=option.help if option.default_text == "none" else f"{option.help} Default: {option.default_text}.",
    )


class _Checked(click.ParamType[Any]):
    """A parameter type of click. A function parses the value of the option, and click puts the option's name before
    error texts."""

    def __init__(self, name: str, read: Callable[[str], Any]) -> None:
        self.name = name
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse the text of an option and return the value. `click` calls this method for each given option."""
        if not isinstance(value, str):
            return value  # Only text is parsed. A default value is not text, and is returned unchanged.
        try:
            return self._read(value)
        except InvalidArgumentError as error:
            self.fail(str(error), param, ctx)


@contextmanager
def refused_options() -> Iterator[None]:
    """Turn an error about an argument of the Python API into an error about the options of the command line.

    The client and the controller check the values and the combinations of arguments. Their errors name the arguments of
    the Python API, such as `retry_pause`. The error about the command line names the options instead.

    Raises:
        UsageError: An argument was refused. The exit code of the command is then 2.
    """
    try:
        yield
    except InvalidArgumentError as error:
        raise click.UsageError(_with_option_names(str(error), click.get_current_context().command)) from error


def _with_option_names(text: str, command: click.Command) -> str:
    """Replace the names of arguments in an error text by the options of a command."""
    flags = {option.name: max(option.opts, key=len) for option in command.params if isinstance(option, click.Option)}
    # A name without an underscore is also an ordinary word, unless a rule about the argument follows.
    words = re.compile(r"(?<![\w'-])(?:[a-z]+(?:_[a-z]+)+|[a-z]+(?= must|,))(?![\w'-])")
    return words.sub(lambda word: flags.get(word[0], word[0]), text)


class ChoiceList(click.Choice[Any]):
    """The type of an option that accepts one or several of a fixed set of words, separated by commas.

    The value of such an option is a tuple of words. An option that may be given several times needs the callback
    `joined_choices`.
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the words of a text. `click` calls this method for each given option."""
        if not isinstance(value, str):
            return value  # Only text is parsed. A default value is not text, and is returned unchanged.
        return tuple(super(ChoiceList, self).convert(word.strip(), param, ctx) for word in value.split(","))

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the words that can complete the last word of a text. The earlier words are kept."""
        from click.shell_completion import CompletionItem

        before, comma, last = incomplete.rpartition(",")
        return [CompletionItem(f"{before}{comma}{item.value}") for item in super().shell_complete(ctx, param, last)]


def joined_choices(_: click.Context, __: click.Parameter, values: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    """Return the words of all given options, each word once."""
    return tuple(dict.fromkeys(word for words in values for word in words))


def _read_address(text: str) -> str:
    if text:  # An empty address counts as no address, as in IRIS_CONTROLLER_ADDRESS.
        parse_address(text)
    return text


def _read_context_name(text: str) -> str:
    from iris.cluster.client.contexts.context_file import check_context_name

    return check_context_name(text)


def _read_port_name(text: str) -> str:
    check_port_name(text)
    return text


def _read_job_name(text: str) -> str:
    check_job_name(text)
    return text


def _read_label(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    if "=" not in text:
        raise InvalidArgumentError(f"a label must be given as KEY=VALUE, got {quoted(text)}")
    check_label(key, value)
    return key, value


def _read_limit(text: str) -> float:
    seconds = read_span(text)
    if seconds > MAX_INT32:
        raise InvalidArgumentError(
            f"a time limit must be at most {MAX_INT32} seconds (68 years), got {quoted(text)}:"
            " leave the option out for no limit"
        )
    return seconds


def _read_count(text: str, *, least: int = 0) -> int:
    number = int(text) if _DIGITS.fullmatch(text) else text
    return check_whole_number("the number", number, least=least, most=MAX_INT32)


def _read_dependency(text: str) -> tuple[str, str]:
    job, colon, condition = text.rpartition(":")
    if colon and job and condition in ("ok", "any"):
        return job, condition
    if not text:
        raise InvalidArgumentError("expected JOB, JOB:ok or JOB:any, got an empty text")
    return text, "ok"


def _read_exit_code(text: str) -> int:
    number = int(text) if _DIGITS.fullmatch(text) else text
    return check_whole_number("an exit code", number, least=1, most=MAX_EXIT_CODE)


_DIGITS = re.compile("[0-9]{1,20}", re.ASCII)
ADDRESS = _Checked("HOST:PORT", _read_address)
ARRAY = _Checked("NUMBERS", read_array)
CONTEXT_NAME = _Checked("NAME", _read_context_name)
CORES = _Checked("N", read_cores)
COUNT = _Checked("N", _read_count)
POSITIVE_COUNT = _Checked("N", partial(_read_count, least=1))
DEPENDENCY = _Checked("JOB[:any|ok]", _read_dependency)
EXIT_CODE = _Checked("CODE", _read_exit_code)
DURATION = _Checked("TIME", read_span)
LIMIT = _Checked("TIME", _read_limit)
EVENT_KINDS = _Checked("KIND,…", EVENTS.read)
MOMENT = _Checked("TIME", read_moment)
SIZE = _Checked("SIZE", parse_bytes)
VARIABLE = _Checked("NAME[=VALUE]", read_variable)
ENV_FILE = _Checked("FILE", read_env_file)
LABEL = _Checked("KEY=VALUE", _read_label)
PORT_NAME = _Checked("NAME", _read_port_name)
JOB_NAME = _Checked("NAME", _read_job_name)
