"""The generated reference pages are complete and up to date, and their texts become the right Markdown."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import iris
import iris.client
import iris.client.aio
from docsite.reference.__main__ import COMMAND, ROOT, stale_files
from docsite.reference.docstrings import parse
from docsite.reference.markdown import prose
from docsite.reference.messages import MESSAGES, PROTO, read_messages
from docsite.reference.public_names import ASYNC_CLASSES, CLASSES, FUNCTIONS
from iris.cli.program import program as iris_command
from iris.rpc.cluster_pb2 import DESCRIPTOR

REFERENCE = Path(__file__).parents[1] / "docs" / "reference"


def test_reference_pages_equal_the_text_generated_from_the_code() -> None:
    stale = sorted(str(path.relative_to(ROOT)) for path in stale_files())
    assert stale == [], f"write these files with: {COMMAND}"


def commands(group: click.Group, name: str) -> Iterator[tuple[str, click.Command]]:
    """Return each command of `iris` with its full name, groups included."""
    context = click.Context(group)
    for word in group.list_commands(context):
        child = group.get_command(context, word)
        assert child is not None
        yield f"{name} {word}", child
        if isinstance(child, click.Group):
            yield from commands(child, f"{name} {word}")


def test_command_line_page_has_a_section_for_each_command_with_all_options() -> None:
    text = (REFERENCE / "cli.md").read_text()
    sections = dict(re.findall(r"^##+ (iris [a-z -]+)\n(.*?)(?=^## |^### |\Z)", text, re.MULTILINE | re.DOTALL))
    known = dict(commands(iris_command, "iris"))
    assert set(sections) == set(known)
    for name, command in known.items():
        options = {
            option
            for parameter in command.params
            if isinstance(parameter, click.Option) and not parameter.hidden
            for option in (*parameter.opts, *parameter.secondary_opts)
        }
        rows = re.findall(r"^\| (`-.*?) \| ", sections[name], re.MULTILINE)
        listed = {option for row in rows for option in re.findall(r"`(--?[a-z-]+)", row)}
        assert listed == options - {"--address", "--context"}, name


def test_each_option_with_a_default_names_the_default_in_its_help() -> None:
    unsaid = [
        f"{name} {parameter.opts[0]}"
        for name, command in commands(iris_command, "iris")
        for parameter in command.params
        if isinstance(parameter, click.Option)
        and isinstance(parameter.default, int | float | str | bool)
        and parameter.default
        and "efault" not in (parameter.help or "")
    ]
    assert unsaid == []


def test_python_page_has_a_section_for_each_public_name() -> None:
    titles = set(re.findall(r"^##+ (\w+)$", (REFERENCE / "python-api.md").read_text(), re.MULTILINE))
    listed = {name for name, *_ in (*CLASSES, *ASYNC_CLASSES, *FUNCTIONS)}
    assert listed <= titles
    names = [name for name, *_ in (*CLASSES, *ASYNC_CLASSES, *FUNCTIONS)]
    assert len(names) == len(listed), "a class is listed twice"
    public = {*iris.__all__, *iris.client.__all__, *iris.client.aio.__all__}
    assert public - titles == {"ResourceSpec", "__version__"}, "`Resources` is another name of ResourceSpec"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("With -f, --tail N shows 'iris logs' lines.", "With `-f`, `--tail N` shows `iris logs` lines."),
        ("The job's tasks' lines", "The job's tasks' lines"),
        ("in IRIS_PORT_<NAME> and WORLD_SIZE", "in `IRIS_PORT_<NAME>` and `WORLD_SIZE`"),
        ('has "job_id" and "times_ms"', "has `job_id` and `times_ms`"),
        ("opens $EDITOR", "opens `$EDITOR`"),
        ("needs the extra [storage]", "needs the extra `[storage]`"),
        ("see docs/reference/limits.md.", "see [Limits](limits.md)."),
        ('JOB/task-2 prints {"jobs": […]}', '`JOB/task-2` prints `{"jobs": […]}`'),
        ("a <b> *c* failure_reason", r"a \<b> \*c\* `failure_reason`"),
    ],
)
def test_commands_options_and_paths_in_help_texts_become_code_or_links(text: str, expected: str) -> None:
    assert prose(text) == expected


def test_docstring_is_split_into_paragraphs_examples_and_sections() -> None:
    def function() -> None:
        """Return the sum. More text
        follows.

            first = 1

            second = 2

        Args:
            one, two: The numbers, such as
                1 or 2.
            **options: The others.

        Raises:
            ValueError: (a reason) One: two.
        """

    found = parse(function.__doc__)
    assert found.blocks == ["Return the sum. More text\nfollows.", "    first = 1\n\n    second = 2"]
    assert found.summary == "Return the sum."
    assert found.sections == {
        "Args": [("one, two", "The numbers, such as 1 or 2."), ("**options", "The others.")],
        "Raises": [("ValueError", "(a reason) One: two.")],
    }


def test_each_documented_argument_exists_and_each_argument_is_documented() -> None:
    """The page shows the text of each argument. An argument without text would be missing on the page."""
    wrong = []
    for name, module, *_ in CLASSES:
        cls = getattr(__import__(module, fromlist=[name]), name)
        for attribute, value in inspect.getmembers(cls, inspect.isfunction):
            entries = parse(inspect.getdoc(value)).sections.get("Args", [])
            listed = {one.strip() for names, _ in entries for one in names.split(",")}
            parameters = inspect.signature(value).parameters
            accepts_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
            unknown = {one for one in listed if one.lstrip("*") not in parameters}
            if attribute.startswith("_") or not listed:
                continue
            if unknown and not accepts_any:
                wrong.append(f"{name}.{attribute} has no argument {sorted(unknown)}")
    assert wrong == []


def test_messages_and_comments_are_read_from_the_proto_file() -> None:
    text = """
    // A thing.
    message Thing {
      // Two
      // lines.
      repeated int32 sizes = 1;
      message Inner {
        map<string, int32> ports = 2 [deprecated = true]; // the ports
      }
      oneof kind {
        bytes data = 3; // the data
      }
      bool last = 4;
    }
    message Empty {}
    """
    found = read_messages(text)
    assert list(found) == ["Thing", "Thing.Inner", "Empty"]
    assert found["Thing"].comment == "A thing."
    assert found["Thing"].fields == [
        ("sizes", "list of int32", "Two lines."),
        ("data", "bytes", "the data"),
        ("last", "bool", ""),
    ]
    assert found["Thing.Inner"].fields == [("ports", "map<string, int32>", "the ports")]


def test_reference_of_messages_finds_all_fields_in_the_proto_file() -> None:
    known = read_messages(PROTO.read_text())
    for name in MESSAGES:
        descriptor = DESCRIPTOR.message_types_by_name[name.partition(".")[0]]
        for part in name.split(".")[1:]:
            descriptor = descriptor.nested_types_by_name[part]
        assert [row[0] for row in known[name].fields] == [one.name for one in descriptor.fields], name


@pytest.mark.parametrize(
    ("text", "marked"),
    [
        ("JOB:PATH or JOB/task-N:PATH", "`JOB:PATH` or `JOB/task-N:PATH`"),
        ("JOB/task-2 of a JOB", "`JOB/task-2` of a JOB"),
        ("Default: ~/.local/state/iris.", "Default: `~/.local/state/iris`."),
    ],
)
def test_whole_names_and_paths_in_a_help_text_are_marked_as_code(text: str, marked: str) -> None:
    assert prose(text) == marked
