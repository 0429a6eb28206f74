// Short messages at the edge of the page: what an action has done, or why a call has failed.

import { signal } from "@preact/signals";
import { describeError } from "../rpc/errors";

export interface Toast {
  readonly id: number;
  readonly kind: "info" | "error";
  readonly text: string;
  /** What the user can do next; may be empty. */
  readonly advice: string;
}

const INFO_MS = 6_000;
const MAX_TOASTS = 4;
const toasts = signal<readonly Toast[]>([]);
let lastId = 0;

/** Shows a message. An error stays until the user closes it, and other messages disappear after six seconds. */
export function showToast(text: string, kind: Toast["kind"] = "info", advice = ""): void {
  if (toasts.peek().some((toast) => toast.text === text && toast.kind === kind)) return;
  const id = ++lastId;
  toasts.value = [...toasts.peek(), { id, kind, text, advice }].slice(-MAX_TOASTS);
  if (kind === "info") setTimeout(() => close(id), INFO_MS);
}

/** Shows why a call has failed, and what to do. Nothing is shown for a call that the page itself has cancelled. */
export function showError(error: unknown): void {
  const { kind, text, advice } = describeError(error);
  if (kind !== "cancelled" && kind !== "sign-in") showToast(text, "error", advice);
}

/** The messages that are shown at the moment. */
export function Toasts() {
  return (
    <ol class="toasts" aria-label="Messages">
      {toasts.value.map((toast) => (
        <li key={toast.id} class={`toast toast-${toast.kind}`} role={toast.kind === "error" ? "alert" : "status"}>
          <div>
            <p>{toast.text}</p>
            {toast.advice && <p class="muted">{toast.advice}</p>}
          </div>
          <button type="button" class="icon-button" aria-label="Close this message" onClick={() => close(toast.id)}>
            <svg viewBox="0 0 16 16" aria-hidden="true"><path d="M4 4l8 8M12 4l-8 8" /></svg>
          </button>
        </li>
      ))}
    </ol>
  );
}

function close(id: number): void {
  toasts.value = toasts.peek().filter((toast) => toast.id !== id);
}
