"""Draws a profile as a flame graph: an SVG image in one file, which needs no network."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

from iris.client.inspect.stacks import Frame
from iris.counts import counted

if TYPE_CHECKING:
    from iris.client.inspect.profile import Profile

_WIDTH = 1200.0
_ROW = 18
_TOP = 40
# The width of a character of the font, in pixels.
_CHARACTER = 7.0
# Frames that are narrower than this number of pixels are left out of the flame graph.
_SMALLEST = 0.3

# The JavaScript program in the image. A click on a frame widens the frame to the whole image, and a click on the title
# shows all frames again.
_SCRIPT = """
const all = [...document.querySelectorAll("g.f")].map(g => ({g, x: +g.dataset.x, w: +g.dataset.w, y: +g.dataset.y}));
function zoom(x, w, y) {
  for (const f of all) {
    const left = (f.x - x) / w, wide = f.w / w;
    const shown = left < 1 - 1e-9 && left + wide > 1e-9 && (f.y >= y || left <= 1e-9 && left + wide >= 1 - 1e-9);
    f.g.style.display = shown ? "" : "none";
    if (!shown) continue;
    const from = Math.max(left, 0) * WIDTH, width = Math.min(left + wide, 1) * WIDTH - from;
    const rect = f.g.querySelector("rect"), text = f.g.querySelector("text");
    rect.setAttribute("x", from);
    rect.setAttribute("width", Math.max(width - 0.5, 0.2));
    text.setAttribute("x", from + 3);
    const most = Math.floor((width - 6) / CHARACTER), name = f.g.dataset.n;
    text.textContent = most < 3 ? "" : name.length <= most ? name : name.slice(0, most - 1) + "…";
  }
}
for (const f of all) f.g.addEventListener("click", () => zoom(f.x, f.w, f.y));
document.querySelector("text.t").addEventListener("click", () => zoom(0, WIDTH, 0));
zoom(0, WIDTH, 0);
"""


@dataclass
class _Node:
    """A frame in the tree of all stacks."""

    samples: int = 0
    children: dict[Frame, _Node] = field(default_factory=dict)


def flamegraph(profile: Profile) -> str:
    """Return a flame graph as an SVG image. The outermost frames are at the top."""
    root = _tree(profile.stacks)
    boxes = list(_boxes(root, max(root.samples, 1)))
    depth = max((row for row, *_ in boxes), default=0) + 1
    height = _TOP + depth * _ROW + 10
    title = (
        f"{profile.job_id}: {counted(root.samples, 'sample')} of {counted(len(profile.tasks), 'task')} in"
        f" {counted(profile.seconds, 'second')}"
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH:.0f} {height}" width="100%"'
        ' font-family="monospace" font-size="11">',
        "<style>g.f{cursor:pointer}g.f:hover rect{stroke:#000}text.t{cursor:pointer;font-size:14px}</style>",
        f'<rect width="100%" height="100%" fill="#fff"/><text class="t" x="6" y="22">{escape(title)}</text>',
        *(_draw(row, x, width, frame, samples, root.samples) for row, x, width, frame, samples in boxes),
        f"<script><![CDATA[const WIDTH = {_WIDTH}, CHARACTER = {_CHARACTER};{_SCRIPT}]]></script></svg>",
    ]
    return "\n".join(parts) + "\n"


def _tree(stacks: Mapping[tuple[Frame, ...], int]) -> _Node:
    root = _Node()
    for stack, samples in stacks.items():
        node = root
        node.samples += samples
        for frame in stack:
            node = node.children.setdefault(frame, _Node())
            node.samples += samples
    return root


def _boxes(root: _Node, total: int) -> Iterator[tuple[int, float, float, Frame, int]]:
    """Yield the boxes of the flame graph: the row, the left edge, the width, the frame and the samples of each box.
    Boxes that are narrower than `_SMALLEST` are left out."""
    waiting: list[tuple[int, float, _Node]] = [(0, 0.0, root)]
    while waiting:
        row, x, node = waiting.pop()
        for frame, child in sorted(node.children.items()):
            width = child.samples * _WIDTH / total
            if width >= _SMALLEST:
                yield row, x, width, frame, child.samples
                waiting.append((row + 1, x, child))
            x += width


def _draw(row: int, x: float, width: float, frame: Frame, samples: int, total: int) -> str:
    y = _TOP + row * _ROW
    place = f"{frame.file}:{frame.line}" if frame.line else frame.file
    name = f"{frame.function} {place.rpartition('/')[2]}"
    hint = f"{frame.function} {place}: {counted(samples, 'sample')}, {samples / total:.1%}"
    return (
        f'<g class="f" data-x="{x:.3f}" data-w="{width:.3f}" data-y="{row}" data-n="{escape(name)}">'
        f'<title>{escape(hint)}</title><rect x="{x:.2f}" y="{y}" width="{max(width - 0.5, 0.2):.2f}"'
        f' height="{_ROW - 1}" fill="{_colour(frame)}" rx="2"/><text x="{x + 3:.2f}" y="{y + 13}">'
        f"{escape(_shortened(name, width))}</text></g>"
    )


def _shortened(name: str, width: float) -> str:
    most = int((width - 6) / _CHARACTER)
    if most < 3:
        return ""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _colour(frame: Frame) -> str:
    """Return a warm colour that depends on the function only, so that a function has one colour everywhere."""
    number = hashlib.blake2b(f"{frame.function} {frame.file}".encode("utf-8", "replace"), digest_size=2).digest()
    return f"hsl({number[0] * 50 // 255 + 5},85%,{68 + number[1] * 12 // 255}%)"
