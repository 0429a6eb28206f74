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

/** The view. A shell starts when the user asks for it, and not when the address is opened. */
export function TerminalProgramView({ host }: { host: TerminalHost }) {
  const [phase, setPhase] = useState<Phase>({ name: "idle" });
  const [isForReaders, setForReaders] = useState(readsAloud);
  const place = useRef<HTMLDivElement>(null);
  const opener = useRef<HTMLButtonElement>(null);
  const session = useRef<ExecSession | null>(null);
  const screen = useRef<Screen | null>(null);
  const isLive = phase.name === "starting" || phase.name === "running";

  const leave = () => opener.current?.focus();
  const ended = (outcome: Outcome) => {
    setPhase({ name: "ended", outcome });
    screen.current?.freeze();
    opener.current?.focus();
    host.announce(outcomeText(outcome));
  };
  const open = () => {
    if (!place.current) return;
    session.current?.close();
    screen.current?.dispose();
    place.current.hidden = false;
    const shown = (screen.current = new Screen(place.current, isForReaders, {
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
  const end = () => {
    session.current?.close();
    ended({ exitCode: null, error: "You have ended the shell." });
  };
  useEffect(() => {
    // The browser may keep the closed tab for its back button. The shell ends all the same.
    const onHide = () => {
      const running = session.current;
      session.current = null;
      if (!running) return;
      running.close();
      setPhase((now) => (now.name === "ended" ? now : { name: "ended", outcome: { exitCode: null, error: "The tab was left." } }));
    };
    window.addEventListener("pagehide", onHide);
    return () => {
      window.removeEventListener("pagehide", onHide);
      session.current?.close();
      screen.current?.dispose();
    };
  }, []);
  const type = (keys: string) => {
    session.current?.input(new TextEncoder().encode(keys));
    screen.current?.focus();
  };
  return (
    <div class="terminal-view">
      <div class="terminal-tools">
        <button ref={opener} type="button" class="button" onClick={isLive ? end : open}>
          {isLive ? "End the shell" : phase.name === "idle" ? "Open a shell" : "Open another shell"}
        </button>
        <label>
          <input
            type="checkbox"
            checked={isForReaders}
            onChange={({ currentTarget: { checked } }) => {
              setForReaders(checked);
              rememberReadsAloud(checked);
              screen.current?.setForScreenReaders(checked);
            }}
          />{" "}
          Screen reader
        </label>
        <span class="terminal-status" role="status">
          {statusText(phase)}
        </span>
      </div>
      <div
        ref={place}
        class="terminal-screen"
        hidden
        role="group"
        aria-label={`Terminal of task ${host.taskIndex}. Ctrl-M leaves it.`}
      />
      {isLive && (
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
      )}
      {phase.name === "idle" && (
        <p class="muted">
          The shell runs beside the program of the task, with its directory, environment and limits. Its start is written
          to the event log. It ends when you leave this view.
        </p>
      )}
    </div>
  );
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
