// Questions that must be answered before an action is carried out.

import { signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";

export interface Question {
  readonly title: string;
  readonly text: string;
  /** The label of the button that confirms, for example `End job`. */
  readonly action: string;
  /** Whether the action cannot be undone. Its button is red then. */
  readonly dangerous?: boolean;
}

const asked = signal<{ question: Question; answer: (confirmed: boolean) => void } | null>(null);

/** Asks the user, and returns whether the user has confirmed. A second question answers the first one with no. */
export function confirm(question: Question): Promise<boolean> {
  asked.peek()?.answer(false);
  return new Promise((resolve) => {
    asked.value = {
      question,
      answer: (confirmed) => {
        asked.value = null;
        resolve(confirmed);
      },
    };
  });
}

/** The question that is open at the moment, as a modal dialog. Escape answers no. Afterwards the focus is where it was. */
export function Dialogs() {
  const open = asked.value;
  const element = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    if (!open) return;
    const asker = document.activeElement;
    element.current?.showModal();
    // The browser gives the focus back when a dialog is closed, but not when it is removed.
    return () => {
      if (asker instanceof HTMLElement) asker.focus();
    };
  }, [open]);
  if (!open) return null;
  const { title, text, action, dangerous } = open.question;
  return (
    <dialog ref={element} class="dialog" aria-labelledby="dialog-title" onClose={() => open.answer(false)}>
      <h2 id="dialog-title">{title}</h2>
      <p>{text}</p>
      <div class="dialog-buttons">
        <button type="button" class="button" onClick={() => open.answer(false)}>
          Cancel
        </button>
        <button
          type="button"
          class={`button ${dangerous ? "button-danger" : "button-primary"}`}
          onClick={() => open.answer(true)}
        >
          {action}
        </button>
      </div>
    </dialog>
  );
}
