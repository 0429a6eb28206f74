// The view of a shell in a task: the terminal, its buttons, and how the shell has ended.

import { useEffect, useRef, useState } from "preact/hooks";
import { visibleText } from "../../../parts/visible_text";
import type { TerminalHost } from "../host";
import { ExecSession, type Outcome } from "./exec_session";
import { Screen } from "./screen";

const READER_KEY = "iris.terminal.screen-reader";
// The keys that the keyboard of a phone does not have.
const TOUCH_KEYS: readonly (readonly [string, string])[] = [
  ["Esc", "\x1b"], ["Tab", "\t"], ["Ctrl-C", "\x03"], ["Ctrl-D", "\x04"], ["↑", "\x1b[A"], ["↓", "\x1b[B"],
];

type Phase = { name: "idle" } | { name: "starting"; waiting: string } | { name: "running" } | { name: "ended"; outcome: Outcome };

/** A shell and its screen. */
interface Shell {
  readonly phase: Phase;
  /** Starts a shell with a new screen in the element. */
  readonly open: (place: HTMLElement, isForReaders: boolean) => void;
  /** Ends the shell. Its output stays on the screen. */
  readonly end: () => void;
  /** Sends keys to the shell, and gives the terminal the focus. */
  readonly type: (keys: string) => void;
  readonly setForReaders: (isOn: boolean) => void;
}

/** Keeps one shell, and ends it when the view is left. `leave` moves the focus out of the terminal. */
function useShell(host: TerminalHost, leave: () => void): Shell {
  const [phase, setPhase] = useState<Phase>({ name: "idle" });
  const session = useRef<ExecSession | null>(null);
  const screen = useRef<Screen | null>(null);
  const ended = (outcome: Outcome) => {
    setPhase({ name: "ended", outcome });
    screen.current?.freeze();
    leave();
    host.announce(outcomeText(outcome));
  };
  useEffect(() => {
    // The browser may keep the closed tab for its back button. The shell ends all the same.
    const onHide = () => {
      session.current?.close();
      setPhase((now) => (isLive(now) ? { name: "ended", outcome: { exitCode: null, error: "The tab was left." } } : now));
    };
    window.addEventListener("pagehide", onHide);
    return () => {
      window.removeEventListener("pagehide", onHide);
      session.current?.close();
      screen.current?.dispose();
    };
  }, []);
  const open = (place: HTMLElement, isForReaders: boolean) => {
    session.current?.close();
    screen.current?.dispose();
    const shown = (screen.current = new Screen(place, isForReaders, {
      onInput: (bytes) => session.current?.input(bytes),
      onResize: (size) => session.current?.resize(size),
      onLeave: leave,
    }));
    setPhase({ name: "starting", waiting: "" });
    session.current = new ExecSession(host.calls, newTunnelId(), shown.size, {
      onOutput: (bytes, done) => shown.write(bytes, done),
      onStarted: () => {
        setPhase({ name: "running" });
        host.announce("The shell has started.");
      },
      onWaiting: (waiting) => setPhase((now) => (now.name === "starting" ? { name: "starting", waiting } : now)),
      onEnd: ended,
    });
    session.current.start();
    shown.focus();
  };
  return {
    phase,
    open,
    end: () => {
      session.current?.close();
      ended({ exitCode: null, error: "You have ended the shell." });
    },
    type: (keys) => {
      session.current?.input(new TextEncoder().encode(keys));
      screen.current?.focus();
    },
    setForReaders: (isOn) => screen.current?.setForScreenReaders(isOn),
  };
}

/** The view. A shell starts when the user asks for it, and not when the address is opened. */
export function TerminalProgramView({ host }: { host: TerminalHost }) {
  const [isForReaders, setForReaders] = useState(readsAloud);
  const place = useRef<HTMLDivElement>(null);
  const opener = useRef<HTMLButtonElement>(null);
  const { phase, open, end, type, ...shell } = useShell(host, () => opener.current?.focus());
  const start = () => {
    if (!place.current) return;
    place.current.hidden = false; // The screen measures its place.
    open(place.current, isForReaders);
  };
  const onReaders = (isOn: boolean) => {
    setForReaders(isOn);
    rememberReadsAloud(isOn);
    shell.setForReaders(isOn);
  };
  return (
    <div class="terminal-view">
      <div class="terminal-tools">
        <button ref={opener} type="button" class="button" onClick={isLive(phase) ? end : start}>
          {isLive(phase) ? "End the shell" : phase.name === "idle" ? "Open a shell" : "Open another shell"}
        </button>
        <label>
          <input type="checkbox" checked={isForReaders} onChange={({ currentTarget: { checked } }) => onReaders(checked)} />{" "}
          Screen reader
        </label>
        <span class="terminal-status" role="status">
          {statusText(phase)}
        </span>
      </div>
      <div
        ref={place}
        class="terminal-screen"
        hidden={phase.name === "idle"}
        role="group"
        aria-label={`Terminal of task ${host.taskIndex}. Ctrl-M leaves it.`}
      />
      {isLive(phase) && <Keys type={type} />}
      {phase.name === "idle" && (
        <p class="muted">
          The shell runs beside the program of the task, with its directory, environment and limits. Its start is written
          to the event log. It ends when you leave this view.
        </p>
      )}
    </div>
  );
}

/** The keys that a phone lacks, and how the keyboard leaves the terminal. */
function Keys({ type }: { type: Shell["type"] }) {
  return (
    <>
      <div class="terminal-keys" role="group" aria-label="Keys">
        {TOUCH_KEYS.map(([label, keys]) => (
          <button key={label} type="button" class="button" onClick={() => type(keys)}>
            {label}
          </button>
        ))}
      </div>
      <p class="muted">
        <kbd>Ctrl-M</kbd> moves the focus out of the terminal. Leaving this view ends the shell.
      </p>
    </>
  );
}

function isLive({ name }: Phase): boolean {
  return name === "starting" || name === "running";
}

function statusText(phase: Phase): string {
  if (phase.name === "starting") return visibleText(phase.waiting ? `${phase.waiting}. The shell starts when it runs.` : "Starting…");
  return phase.name === "ended" ? outcomeText(phase.outcome) : "";
}

function outcomeText({ exitCode, error }: Outcome): string {
  const code = exitCode === null ? "" : `The shell has ended with exit code ${exitCode}. `;
  return visibleText(`${code}${error}`.trim());
}

function newTunnelId(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function readsAloud(): boolean {
  try {
    return localStorage.getItem(READER_KEY) === "yes";
  } catch {
    return false;
  }
}

function rememberReadsAloud(isOn: boolean): void {
  try {
    localStorage.setItem(READER_KEY, isOn ? "yes" : "no");
  } catch {
    // A browser may forbid storage. The choice then lasts until the view is left.
  }
}
