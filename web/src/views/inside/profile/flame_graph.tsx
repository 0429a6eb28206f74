// A flame graph: the outermost frames are at the top, and a frame is as wide as its share of the samples.

import { useMemo, useRef, useState } from "preact/hooks";
import { countText } from "../../../parts/numbers";
import { visibleText } from "../../../parts/visible_text";
import { isOwn } from "../stacks/merge";
import { boxesOf, matches, matchingSamples, moved, treeOf, type Box, type Move, type Node } from "./flame";
import type { SummedStack } from "./profile_sum";

const ROW_PX = 20;
const MOVES: Readonly<Record<string, Move>> = {
  ArrowUp: "up", ArrowDown: "down", ArrowLeft: "left", ArrowRight: "right", Home: "first",
};

/** The graph with its search. A click or Enter zooms; the arrow keys choose a frame. */
export function FlameGraph({ stacks }: { stacks: readonly SummedStack[] }) {
  const root = useMemo(() => treeOf(stacks), [stacks]);
  const [zoomed, setZoomed] = useState(root);
  const [chosen, setChosen] = useState(root);
  const [hovered, setHovered] = useState<Node | null>(null);
  const [search, setSearch] = useState("");
  const graph = useRef<HTMLDivElement>(null);
  const boxes = useMemo(() => boxesOf(zoomed), [zoomed]);
  const found = useMemo(() => (search ? matchingSamples(root, search) : 0), [root, search]);
  const rows = (boxes[boxes.length - 1]?.row ?? 0) + 1; // The boxes are in the order of their rows.
  const zoom = (node: Node) => {
    setZoomed(node);
    setChosen(node);
  };
  const onKeyDown = (event: KeyboardEvent) => {
    const move = MOVES[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (move) setChosen(moved(boxes, chosen, move));
    else if (event.key === "Enter" || event.key === " ") zoom(chosen);
    else if (event.key === "Escape" && zoomed !== root) zoom(root);
    else return;
    event.preventDefault();
  };
  return (
    <>
      <div class="flame-tools">
        <label>
          Search <input type="search" value={search} onInput={({ currentTarget: { value } }) => setSearch(value)} />
        </label>
        <span role="status">{search && `${shareText(found, root)} match`}</span>
        <button type="button" class="button" disabled={zoomed === root} onClick={() => {
          zoom(root);
          graph.current?.focus(); // The button is disabled now, and a disabled button has no focus.
        }}>
          Show all
        </button>
      </div>
      <div
        ref={graph}
        class="flame-graph"
        tabIndex={0}
        role="group"
        aria-label="Flame graph. The arrow keys choose a frame, Enter zooms, and Escape shows all."
        style={{ height: `${rows * ROW_PX}px` }}
        onKeyDown={onKeyDown}
        onMouseLeave={() => setHovered(null)}
      >
        {boxes.map((box, index) => (
          <Frame key={index} box={box} isChosen={box.node === chosen} isFound={search !== "" && matches(box.node, search)}
            onClick={() => zoom(box.node)} onHover={() => setHovered(box.node)} />
        ))}
      </div>
      <p class="flame-chosen" role="status" dir="ltr">
        {describe(hovered ?? chosen, root)}
      </p>
    </>
  );
}

interface FrameProps {
  readonly box: Box;
  readonly isChosen: boolean;
  readonly isFound: boolean;
  readonly onClick: () => void;
  readonly onHover: () => void;
}

function Frame({ box: { node, row, left, width }, isChosen, isFound, onClick, onHover }: FrameProps) {
  const kind = node.frame === null ? "all" : isOwn(node.frame.file) ? "own" : "library";
  const names = ["flame-frame", `flame-${kind}`, isChosen && "flame-is-chosen", isFound && "flame-is-found"];
  return (
    <div
      aria-hidden="true"
      class={names.filter(Boolean).join(" ")}
      style={{ top: `${row * ROW_PX}px`, left: `${left * 100}%`, width: `${width * 100}%` }}
      onClick={onClick}
      onMouseEnter={onHover}
    >
      {node.frame ? visibleText(node.frame.function) : "all"}
    </div>
  );
}

function describe(node: Node, root: Node): string {
  const own = node.self ? `, ${percent(node.self, root)} in its own code` : "";
  if (!node.frame) return `All: ${countText(root.samples)} samples`;
  const { function: name, file, line } = node.frame;
  return visibleText(`${name} ${file}${line ? `:${line}` : ""}: ${shareText(node.samples, root)}${own}`);
}

function shareText(samples: number, root: Node): string {
  return `${percent(samples, root)} of the samples (${countText(samples)})`;
}

function percent(samples: number, root: Node): string {
  return `${((100 * samples) / Math.max(root.samples, 1)).toFixed(1)} %`;
}
