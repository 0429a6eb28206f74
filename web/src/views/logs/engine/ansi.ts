// Turns the bytes of a line into pieces of text with styles, as a terminal would show the line. Carriage returns redraw
// the line in place. Characters that could hide or reorder text become visible escapes. The result is only ever used as
// text, never as markup.

export interface Style {
  /** A colour of the terminal's palette from 0 to 15, or `#rrggbb`; null is the default. */
  readonly foreground: number | string | null;
  readonly background: number | string | null;
  readonly bold: boolean;
  readonly dim: boolean;
  readonly italic: boolean;
  readonly underline: boolean;
  readonly strike: boolean;
  readonly inverse: boolean;
}

export interface Span {
  readonly text: string;
  readonly style: Style;
  /** The text stands for a character that is not shown, for example `\u202e`. */
  readonly isEscape: boolean;
}

export const PLAIN: Style = {
  foreground: null,
  background: null,
  bold: false,
  dim: false,
  italic: false,
  underline: false,
  strike: false,
  inverse: false,
};

const MOST_COLUMNS = 32_000; // A cursor movement to a larger column goes to this column.
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
// Control characters except the tab, line separators, and the characters that change the direction of text.
const HIDDEN = /[\0-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/;
const SEQUENCE =
  /\x1b(?:\[([0-?]*)[ -/]*([@-~])|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]+[0-~]|[0-OQ-WYZ\\`-~])/y;

interface Cell {
  readonly text: string;
  readonly style: Style;
  readonly isEscape: boolean;
}

/** Returns the pieces of a line. Invalid UTF-8 becomes U+FFFD. */
export function renderLine(data: Uint8Array): Span[] {
  let text = decoder.decode(data);
  if (text.endsWith("\r")) text = text.slice(0, -1);
  if (text === "") return [];
  if (!HIDDEN.test(text)) return [{ text, style: PLAIN, isEscape: false }];
  return joinCells(new LineTerminal().write(text));
}

/** Returns a text in which hidden characters are visible escapes, for names and errors. */
export function visibleText(text: string): string {
  return [...text].map((character) => (HIDDEN.test(character) ? escapeOf(character) : character)).join("");
}

/** A terminal with one line. */
class LineTerminal {
  private readonly cells: Cell[] = [];
  private column = 0;
  private style = PLAIN;

  write(text: string): readonly Cell[] {
    for (let at = 0; at < text.length; ) {
      const code = text.codePointAt(at)!;
      if (code === 0x1b) {
        SEQUENCE.lastIndex = at;
        const found = SEQUENCE.exec(text);
        if (found) {
          this.apply(found[1] ?? "", found[2] ?? "");
          at = SEQUENCE.lastIndex;
          continue;
        }
      }
      const character = String.fromCodePoint(code);
      at += character.length;
      if (character === "\r") this.column = 0;
      else if (character === "\b") this.column = Math.max(0, this.column - 1);
      else this.put(character);
    }
    return this.cells;
  }

  private put(character: string): void {
    const isEscape = HIDDEN.test(character);
    while (this.cells.length < this.column) this.cells.push({ text: " ", style: PLAIN, isEscape: false });
    this.cells[this.column] = { text: isEscape ? escapeOf(character) : character, style: this.style, isEscape };
    this.column += 1;
  }

  /** Carries out a control sequence. Sequences without a meaning in one line are ignored. */
  private apply(parameters: string, final: string): void {
    const count = Math.min(MOST_COLUMNS, Number.parseInt(parameters, 10) || 1);
    if (final === "m") this.style = changeStyle(this.style, parameters);
    else if (final === "K") this.erase(Number.parseInt(parameters, 10) || 0);
    else if (final === "G") this.column = count - 1;
    else if (final === "C") this.column = Math.min(MOST_COLUMNS, this.column + count);
    else if (final === "D") this.column = Math.max(0, this.column - count);
  }

  private erase(what: number): void {
    if (what === 0 || what === 2) this.cells.length = Math.min(this.cells.length, what === 0 ? this.column : 0);
    if (what !== 1) return;
    const blank: Cell = { text: " ", style: PLAIN, isEscape: false };
    this.cells.fill(blank, 0, Math.min(this.cells.length, this.column + 1));
  }
}

function joinCells(cells: readonly Cell[]): Span[] {
  const spans: Span[] = [];
  let text: string[] = [];
  cells.forEach((cell, index) => {
    text.push(cell.text);
    const next = cells[index + 1];
    if (next && next.style === cell.style && next.isEscape === cell.isEscape) return;
    spans.push({ text: text.join(""), style: cell.style, isEscape: cell.isEscape });
    text = [];
  });
  return spans;
}

function escapeOf(character: string): string {
  const code = character.codePointAt(0)!;
  if (code === 0) return "\\0";
  if (code < 0x100) return `\\x${code.toString(16).padStart(2, "0")}`;
  return `\\u${code.toString(16).padStart(4, "0")}`;
}

/** Returns a style after the parameters of a sequence such as `1;31` or `38;5;208`. */
export function changeStyle(before: Style, parameters: string): Style {
  let style = before;
  const numbers = parameters.split(/[;:]/).map((text) => (text === "" ? 0 : Number.parseInt(text, 10)));
  for (let at = 0; at < numbers.length; at += 1) {
    const code = numbers[at]!;
    if (code === 38 || code === 48) {
      // `38:2::R:G:B` has an empty parameter for the colour space, which `38;2;R;G;B` does not have.
      const hasSpace = numbers[at + 1] === 2 && parameters.includes(":") && numbers.length - at >= 6;
      const [colour, used] = extendedColour(numbers.slice(at + 1), hasSpace);
      if (colour !== null) style = { ...style, [code === 38 ? "foreground" : "background"]: colour };
      at += used;
    } else {
      style = code === 0 ? PLAIN : { ...style, ...simpleChange(code) };
    }
  }
  return style;
}

function simpleChange(code: number): Partial<Style> {
  switch (code) {
    case 1: return { bold: true };
    case 2: return { dim: true };
    case 3: return { italic: true };
    case 4: case 21: return { underline: true };
    case 7: return { inverse: true };
    case 9: return { strike: true };
    case 22: return { bold: false, dim: false };
    case 23: return { italic: false };
    case 24: return { underline: false };
    case 27: return { inverse: false };
    case 29: return { strike: false };
    case 39: return { foreground: null };
    case 49: return { background: null };
    default:
  }
  if (code >= 30 && code <= 37) return { foreground: code - 30 };
  if (code >= 90 && code <= 97) return { foreground: code - 82 };
  if (code >= 40 && code <= 47) return { background: code - 40 };
  if (code >= 100 && code <= 107) return { background: code - 92 };
  return {};
}

/** Returns the colour of `5;N` or `2;R;G;B`, and how many parameters belong to it. */
function extendedColour(parameters: readonly number[], hasSpace: boolean): [number | string | null, number] {
  const [mode, ...rest] = parameters;
  if (mode === 5) return [paletteColour(rest[0] ?? 0), 2];
  if (mode !== 2) return [null, 1];
  const [red = 0, green = 0, blue = 0] = hasSpace ? rest.slice(1) : rest;
  return [hexColour(red, green, blue), hasSpace ? 5 : 4];
}

function paletteColour(index: number): number | string | null {
  if (!(index >= 0 && index <= 255)) return null;
  if (index < 16) return index;
  if (index >= 232) {
    const grey = 8 + 10 * (index - 232);
    return hexColour(grey, grey, grey);
  }
  const level = (step: number) => (step === 0 ? 0 : 55 + 40 * step);
  const cube = index - 16;
  return hexColour(level(Math.floor(cube / 36)), level(Math.floor(cube / 6) % 6), level(cube % 6));
}

// The palette of common terminals, for texts on a background that the program has chosen. On the page's own background,
// the palette of the page's theme is used instead.
const TERMINAL_PALETTE = [
  "#000000", "#cd0000", "#00cd00", "#cdcd00", "#1e6bff", "#cd00cd", "#00cdcd", "#e5e5e5",
  "#7f7f7f", "#ff0000", "#00ff00", "#ffff00", "#5c8cff", "#ff00ff", "#00ffff", "#ffffff",
];

/** Returns the colour of a text on a background `#rrggbb`. Without a colour of its own, the text is black or white. */
export function textColourOn(background: string, foreground: number | string | null): string {
  if (typeof foreground === "string") return foreground;
  if (foreground !== null) return TERMINAL_PALETTE[foreground] ?? "#ffffff";
  const [red, green, blue] = [1, 3, 5].map((at) => Number.parseInt(background.slice(at, at + 2), 16)) as [number, number, number];
  return 0.299 * red + 0.587 * green + 0.114 * blue > 140 ? "#000000" : "#ffffff";
}

function hexColour(...channels: number[]): string {
  const byte = (value: number) => Math.min(255, Math.max(0, value || 0)).toString(16).padStart(2, "0");
  return `#${channels.map(byte).join("")}`;
}
