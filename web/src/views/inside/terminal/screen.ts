// The terminal on the page: xterm.js with the colours of the page.

import { FitAddon } from "@xterm/addon-fit";
import { Terminal, type ITheme } from "@xterm/xterm";
import type { Size } from "./exec_session";

const SCROLLBACK_LINES = 10_000;
// Control characters except tab and line ends.
const CONTROL = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]/g;
const COLOUR_NAMES = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"] as const;

export interface ScreenEvents {
  /** The user has typed or pasted, or the terminal answers a question of the command. */
  readonly onInput: (bytes: Uint8Array) => void;
  readonly onResize: (size: Size) => void;
  /** The user wants to leave the terminal with the keyboard. */
  readonly onLeave: () => void;
}

/** A terminal in an element. It fills the element, also after a change of the element's size. */
export class Screen {
  private readonly terminal: Terminal;
  private readonly fit = new FitAddon();
  private readonly observers: { disconnect: () => void }[] = [];
  private frame = 0;

  constructor(element: HTMLElement, isForScreenReaders: boolean, events: ScreenEvents) {
    const style = getComputedStyle(element);
    this.terminal = new Terminal({
      fontFamily: style.fontFamily,
      fontSize: 13,
      scrollback: SCROLLBACK_LINES,
      minimumContrastRatio: 4.5,
      logLevel: "off", // A line of the browser's console for each wrong sequence in binary output would be too much.
      screenReaderMode: isForScreenReaders,
      theme: themeOf(style),
    });
    this.terminal.loadAddon(this.fit);
    this.terminal.open(element);
    this.terminal.attachCustomKeyEventHandler((event) => {
      // Ctrl-M is the same byte as Enter, so no command misses it.
      if (!event.ctrlKey || event.altKey || event.metaKey || event.key.toLowerCase() !== "m") return true;
      event.preventDefault();
      if (event.type === "keydown") events.onLeave();
      return false;
    });
    this.terminal.onData((text) => events.onInput(new TextEncoder().encode(text)));
    this.terminal.onBinary((text) => events.onInput(Uint8Array.from(text, (character) => character.charCodeAt(0))));
    this.terminal.onResize(({ rows, cols }) => events.onResize({ rows, columns: cols }));
    this.fit.fit();
    this.observe(element);
    this.takePastes(element);
  }

  get size(): Size {
    return { rows: this.terminal.rows, columns: this.terminal.cols };
  }

  write(bytes: Uint8Array, done: () => void): void {
    this.terminal.write(bytes, done);
  }

  focus(): void {
    this.terminal.focus();
  }

  setForScreenReaders(isOn: boolean): void {
    this.terminal.options.screenReaderMode = isOn;
  }

  /** Accepts no more input, because the command has ended. The output stays. */
  freeze(): void {
    this.terminal.options.disableStdin = true;
    this.terminal.options.cursorInactiveStyle = "none";
    this.terminal.blur();
  }

  dispose(): void {
    for (const observer of this.observers) observer.disconnect();
    cancelAnimationFrame(this.frame);
    this.terminal.dispose();
  }

  /**
   * Pastes text without its control characters. A page from which the user has copied a text could hide such characters
   * in it: the end of a bracketed paste, after which a shell would run the rest of the text at once.
   */
  private takePastes(element: HTMLElement): void {
    const onPaste = (event: ClipboardEvent) => {
      event.preventDefault();
      event.stopPropagation(); // xterm.js would paste the whole text.
      this.terminal.paste((event.clipboardData?.getData("text/plain") ?? "").replace(CONTROL, ""));
    };
    element.addEventListener("paste", onPaste, { capture: true });
    this.observers.push({ disconnect: () => element.removeEventListener("paste", onPaste, { capture: true }) });
  }

  private observe(element: HTMLElement): void {
    const resized = new ResizeObserver(() => {
      cancelAnimationFrame(this.frame);
      this.frame = requestAnimationFrame(() => this.fit.fit());
    });
    resized.observe(element);
    const recolour = () => (this.terminal.options.theme = themeOf(getComputedStyle(element)));
    const themed = new MutationObserver(recolour);
    themed.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    scheme.addEventListener("change", recolour);
    this.observers.push(resized, themed, { disconnect: () => scheme.removeEventListener("change", recolour) });
  }
}

function themeOf(style: CSSStyleDeclaration): ITheme {
  const colour = (name: string) => style.getPropertyValue(name).trim();
  const theme: Record<string, string> = {
    background: colour("--surface"),
    foreground: colour("--text"),
    cursor: colour("--text"),
    cursorAccent: colour("--surface"),
    selectionBackground: colour("--selected"),
    scrollbarSliderBackground: colour("--border-strong"),
    scrollbarSliderHoverBackground: colour("--muted"),
    scrollbarSliderActiveBackground: colour("--muted"),
  };
  for (const [index, name] of COLOUR_NAMES.entries()) {
    theme[name] = colour(`--ansi-${index}`);
    theme[`bright${name[0]?.toUpperCase()}${name.slice(1)}`] = colour(`--ansi-${index + 8}`);
  }
  return theme;
}
