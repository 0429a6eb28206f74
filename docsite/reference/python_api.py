"""Makes the page of the Python API from signatures and docstrings."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from types import MappingProxyType
from typing import Any, Literal, get_origin

import iris
import iris.errors
from docsite.reference.docstrings import Docstring, parse
from docsite.reference.markdown import HEADER, anchor, cell, page_link, table, wrapped
from docsite.reference.public_names import ASYNC_CLASSES, CLASSES, FUNCTIONS, INTERNAL, LOW_LEVEL
from docsite.reference.see_also import CLASS_PAGES

_SIGNATURE_WIDTH = 100
_STARS: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}


@dataclass(frozen=True)
class Member:
    """A public attribute of a class.

    Attributes:
        name: The name, such as `run`.
        title: The name with the name of the class, such as `IrisClient.run`.
        value: The function or property. None: an attribute that only the docstring of the class describes.
        doc: The parsed docstring.
        is_class_method: Whether the method is called on the class.
    """

    name: str
    title: str
    value: Any
    doc: Docstring
    is_class_method: bool = False


def python_api_page() -> str:
    """Return the text of docs/reference/python-api.md."""
    titles = _titles()
    parts = ["# Python API", HEADER, *_introduction(), _imports(titles)]
    for name, module in CLASSES:
        parts += _class_section(name, _find(module, name), titles)
    for name, module, sync in ASYNC_CLASSES:
        parts += _async_section(name, _find(module, name), sync, titles)
    parts.append("## Functions")
    for name, module in FUNCTIONS:
        parts += _member_section(Member(name, name, _find(module, name), parse(_find(module, name).__doc__)), titles)
    parts += _errors(titles)
    for name, module in LOW_LEVEL:
        parts += _low_level_section(name, _find(module, name), titles)
    return "\n\n".join(parts) + "\n"


def _find(module: str, name: str) -> Any:
    return getattr(import_module(module), name)


def _introduction() -> list[str]:
    return [
        wrapped(
            "This page lists the public classes, methods and functions with their arguments and errors. The"
            " [cookbook](../README.md#cookbook) and the [how-to guides](../README.md#how-to-guides) contain programs."
            " `import iris` is quick, because each name is imported from its module only when it is first used."
        ),
        wrapped(
            f"{page_link('reference/messages.md')} lists the fields of `JobStatus`, `TaskStatus` and the other messages"
            " that methods return."
        ),
    ]


def _imports(titles: dict[str, str]) -> str:
    """Return the table of all names of the page, with the module from which each name is imported."""
    listed = [(name, module) for name, module, *_ in (*CLASSES, *ASYNC_CLASSES, *FUNCTIONS)]
    rows = []
    for name, module in listed:
        summary = parse(_find(module, name).__doc__).summary
        rows.append((f"[`{name}`](#{titles[name]})", f"`{module}`", cell(_linked(summary, {}))))
    rows.append(("[all errors](#errors)", "`iris.errors`", "`IrisError` and `JobFailedError` are also in `iris`."))
    rows += [(f"[`{name}`](#{titles[name]})", f"`{module}`", "The low-level client.") for name, module in LOW_LEVEL]
    return table(("name", "import from", "what it is"), rows)


def _titles() -> dict[str, str]:
    """Return the anchor for each name that a text may have in backticks. The order is the order of the headings.

    If two headings have the same anchor, such as `Job.state` and `JobState`, the second one gets a number.
    """
    names: list[str] = []
    for name, module in CLASSES:
        names += [name, *(member.title for member in _members(name, _find(module, name)))]
    titles: dict[str, str] = {}
    taken: Counter[str] = Counter()
    for name in [*names, *(name for name, *_ in (*ASYNC_CLASSES, *FUNCTIONS)), *_error_names(), *_low_level_names()]:
        plain = anchor(name)
        titles[name] = f"{plain}-{taken[plain]}" if taken[plain] else plain
        taken[plain] += 1
    for name, module, sync in ASYNC_CLASSES:
        for member in _members(name, _find(module, name)):
            own = f"{sync}.{member.name}"
            titles[member.title] = titles.get(own, anchor(member.title))
    return titles


def _low_level_names() -> list[str]:
    return [name for name, _ in LOW_LEVEL]


def _error_names() -> list[str]:
    return [
        name
        for name, value in vars(iris.errors).items()
        if inspect.isclass(value) and issubclass(value, Exception) and value.__module__ == "iris.errors"
    ]


def _members(class_name: str, cls: type) -> Iterator[Member]:
    """Return the public methods and properties of a class and its bases in Iris, each once."""
    seen: set[str] = set()
    for base in cls.__mro__:
        if not base.__module__.startswith("iris.") or base.__module__.endswith("_pb2"):
            continue
        for name, raw in vars(base).items():
            is_class_method = isinstance(raw, classmethod | staticmethod)
            value = raw.__func__ if is_class_method else raw
            if name.startswith("_") or name in seen or not (inspect.isfunction(value) or isinstance(value, property)):
                continue
            seen.add(name)
            if f"{class_name}.{name}" in INTERNAL:
                continue
            yield Member(name, f"{class_name}.{name}", value, parse(_text_of(cls, name)), is_class_method)


def _text_of(cls: type, name: str) -> str | None:
    return inspect.getdoc(getattr(cls, name))


def _class_section(name: str, cls: Any, titles: dict[str, str]) -> list[str]:
    doc = parse(cls.__doc__)
    parts = [f"## {name}", *_blocks(doc, titles)]
    if issubclass(cls, Enum):
        parts += _blocks(Docstring(parse(cls.__mro__[1].__doc__).blocks[1:]), titles)  # about comparisons
        parts.append(wrapped(f"The states are {', '.join(f'`{member.name}`' for member in cls)}."))
    elif _is_constructed_by_users(cls):
        parts.append(_signature(name, cls, skip_self=False))
        parts += _sections(doc, titles)
    elif attributes := _attributes(cls):
        parts += _entries("Attributes", Docstring(sections={"Attributes": attributes}), titles)
    if pages := CLASS_PAGES.get(name):
        parts.append(_see_also(pages))
    for member in _members(name, cls):
        parts += _member_section(member, titles)
    return parts


def _attributes(cls: type) -> list[tuple[str, str]]:
    """Return the entries about attributes in the docstrings of a class and its bases, the bases first."""
    return [entry for base in reversed(cls.__mro__) for entry in parse(base.__doc__).sections.get("Attributes", [])]


def _is_constructed_by_users(cls: type) -> bool:
    """Return whether users create instances by calling the class: dataclasses do, and handles do not."""
    return hasattr(cls, "__dataclass_fields__")


def _see_also(pages: list[str]) -> str:
    return wrapped("See also: " + ", ".join(page_link(*page.partition("#")[::2]) for page in pages) + ".")


def _member_section(member: Member, titles: dict[str, str], twin: Member | None = None) -> list[str]:
    """Return the section of a method or property.

    Args:
        member: The method or property.
        titles: See `_titles`.
        twin: The method with the same arguments in the class for programs without asyncio.
    """
    parts = [f"### {member.title}"]
    if isinstance(member.value, property):
        returned = inspect.signature(member.value.fget).return_annotation if member.value.fget else ""
        parts.append(f"```python norun\n{member.title}: {_annotation(returned)}\n```")
    else:
        called = member.title if member.is_class_method else member.title.rpartition(".")[2]
        prefix = "async " if inspect.iscoroutinefunction(member.value) else ""
        parts.append(_signature(called, member.value, skip_self="." in member.title, prefix=prefix))
    parts += _blocks(member.doc, titles)
    if twin is None or _normal(member.doc.sections.get("Args")) != _normal(twin.doc.sections.get("Args")):
        return [*parts, *_sections(member.doc, titles)]
    if "Args" in member.doc.sections:
        parts.append(f"The arguments are the arguments of [`{twin.title}`](#{titles[twin.title]}).")
    return [
        *parts,
        *(part for one in member.doc.sections if one != "Args" for part in _entries(one, member.doc, titles)),
    ]


def _signature(name: str, value: Callable[..., Any], *, skip_self: bool, prefix: str = "") -> str:
    """Return the signature of a function as a block of code, with one line for each parameter if it is long."""
    signature = inspect.signature(value)
    parameters = list(signature.parameters.values())[1 if skip_self else 0 :]
    names = getattr(value, "__globals__", {})
    words = _parameter_words(parameters, names)
    returned = "" if signature.return_annotation in (inspect.Signature.empty, "None") else signature.return_annotation
    arrow = f" -> {_annotation(returned)}" if returned and not inspect.isclass(value) else ""
    line = f"{prefix}{name}({', '.join(words)}){arrow}"
    if len(line) > _SIGNATURE_WIDTH:
        inner = "".join(f"    {word},\n" for word in words)
        line = f"{prefix}{name}(\n{inner}){arrow}"
    return f"```python norun\n{line}\n```"


def _parameter_words(parameters: list[inspect.Parameter], names: Mapping[str, Any]) -> list[str]:
    words: list[str] = []
    star_is_written = False
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and not star_is_written:
            words.append("*")
            star_is_written = True
        stars = _STARS.get(parameter.kind, "")
        star_is_written |= parameter.kind is parameter.VAR_POSITIONAL
        word = f"{stars}{parameter.name}"
        if parameter.annotation is not parameter.empty:
            word += f": {_annotation(parameter.annotation, names)}"
        if parameter.default is not parameter.empty:
            word += f" = {_default(parameter.default)}"
        words.append(word)
    return words


def _annotation(annotation: Any, names: Mapping[str, Any] = MappingProxyType({})) -> str:
    """Return the text of a type. With `from __future__ import annotations`, each annotation is the text of the source.

    Args:
        annotation: The annotation.
        names: The names of the module with the annotation. Names of types such as `Literal[…]` are replaced.
    """
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))

    def spelled(match: re.Match[str]) -> str:
        value = names.get(match[0])
        if get_origin(value) not in (Literal, Callable):
            return match[0]
        return re.sub(r"\b(?:typing|collections\.abc)\.", "", str(value))

    text = re.sub(r"\b[A-Z]\w+\b(?!\[)", spelled, text)
    return re.sub(r"\bcluster_pb2\.(?:Controller\.|Worker\.)?", "", text).strip("'\"")


def _default(value: Any) -> str:
    if callable(value):
        return str(value.__name__)
    if repr(value) == "<factory>":  # The default of a dataclass is made by a function.
        return "..."
    return repr(value.value) if isinstance(value, Enum) else repr(value)


def _blocks(doc: Docstring, titles: dict[str, str]) -> list[str]:
    found = []
    for block in doc.blocks:
        if block.startswith("    "):
            found.append(f"```{_language(block)}\n{textwrap.dedent(block)}\n```")
        elif block.startswith("* "):
            items = [" ".join(item.split()) for item in re.split(r"^\* ", block, flags=re.MULTILINE) if item.strip()]
            found.append("\n".join(wrapped(_linked(item, titles), "* ", "  ") for item in items))
        else:
            found.append(wrapped(_linked(" ".join(block.split()), titles)))
    return found


def _language(block: str) -> str:
    """Return the language of an example: Python if it compiles, otherwise plain text."""
    try:
        compile(textwrap.dedent(block), "example", "exec")
    except SyntaxError:
        return "text"
    return "python norun"


def _sections(doc: Docstring, titles: dict[str, str]) -> list[str]:
    return [part for title in doc.sections for part in _entries(title, doc, titles)]


def _entries(title: str, doc: Docstring, titles: dict[str, str]) -> list[str]:
    words = {"Args": "Arguments", "Attributes": "Attributes", "Raises": "Errors"}
    lines = []
    for name, text in doc.sections[title]:
        names = ", ".join(f"`{one.strip()}`" for one in name.split(",")) if name else ""
        linked = _linked(text, titles)
        lines.append(wrapped(f"{names}: {linked}" if names else linked, "* ", "  "))
    return [f"**{words.get(title, title)}**", "\n".join(lines)]


def _linked(text: str, titles: dict[str, str]) -> str:
    """Return Markdown in which names of the page and paths of `docs` are links."""

    def link(match: re.Match[str]) -> str:
        code = match[1]
        return f"[`{code}`](#{titles[code]})" if code in titles else match[0]

    parts = []
    for index, part in enumerate(re.split(r"(`[^`]*`)", text)):
        if index % 2:
            parts.append(re.sub(r"`([^`]*)`", link, part))
        else:
            escaped = re.sub(r"([*_<\[\]])", r"\\\1", part)
            parts.append(re.sub(r"\bdocs/([\w/-]+\.md)", lambda match: page_link(match[1]), escaped))
    return "".join(parts)


def _async_section(name: str, cls: Any, sync: str, titles: dict[str, str]) -> list[str]:
    """Return the section of a class for asyncio: a table, and the members that differ from the sync class."""
    module = {one: module for one, module, *_ in CLASSES}[sync]
    known = {member.name: member for member in _members(sync, _find(module, sync))}
    rows, different = [], []
    for member in _members(name, cls):
        twin = known.get(member.name)
        same = twin is not None and _normal(member.doc) == _normal(twin.doc)
        target = titles[twin.title] if same and twin is not None else anchor(member.title)
        rows.append((_call(member), f"[{cell(_linked(member.doc.summary, {}))}](#{target})"))
        if not same:
            different.append(member)
    doc = parse(cls.__doc__)
    parts = [f"## {name}", *_blocks(doc, titles)]
    parts.append(
        wrapped(
            f"The methods of `{name}` have the same arguments, results and errors as the methods of"
            f" [`{sync}`](#{anchor(sync)}). The table shows `await` before the names of coroutines."
        )
    )
    parts.append(table(("call", "what it does"), rows))
    if pages := CLASS_PAGES.get(name):
        parts.append(_see_also(pages))
    for member in different:
        parts += _member_section(member, titles, known.get(member.name))
    return parts


def _normal(doc: object) -> str:
    """Return a text that is equal for docstrings that differ only in the names of classes and in line breaks."""
    return re.sub(r"(?:\\n|\s)+", " ", repr(doc).replace("Async", "").replace("async ", ""))


def _call(member: Member) -> str:
    if isinstance(member.value, property):
        returned = inspect.signature(member.value.fget).return_annotation if member.value.fget else ""
        return f"`await .{member.name}`" if str(returned).startswith(("Awaitable", "Answer")) else f"`.{member.name}`"
    returned = str(inspect.signature(member.value).return_annotation)
    prefix = "async for … in " if re.match(r"Async(Iterator|LogStream|TreeLogStream)", returned) else ""
    prefix = "await " if inspect.iscoroutinefunction(member.value) else prefix
    return f"`{prefix}.{member.name}({'…' if len(inspect.signature(member.value).parameters) > 1 else ''})`"


def _errors(titles: dict[str, str]) -> list[str]:
    """Return the section about the classes of `iris.errors`."""
    module = iris.errors
    parts = ["## Errors", *_blocks(parse(module.__doc__), titles), f"{page_link('errors.md')} says what to do."]
    for name in _error_names():
        value = getattr(module, name)
        doc = parse(value.__doc__)
        bases = ", ".join(f"`{base.__name__}`" for base in value.__bases__ if base is not Exception)
        parts += [f"### {name}", *_blocks(doc, titles)]
        if bases:
            parts.append(f"Base classes: {bases}.")
        parts += _entries("Attributes", doc, titles) if "Attributes" in doc.sections else []
    return parts


def _low_level_section(name: str, cls: Any, titles: dict[str, str]) -> list[str]:
    rows = [(f"`{member.name}`", cell(_linked(member.doc.summary, titles))) for member in _members(name, cls)]
    return [f"## {name}", *_blocks(parse(cls.__doc__), titles), table(("method", "what it does"), rows)]
