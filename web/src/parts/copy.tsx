// A button that copies a text, for example a command.

import { useState } from "preact/hooks";
import { showToast } from "../frame/toasts";
import { visibleText } from "./visible_text";

/** Copies `text`. `label` says what is copied, for screen readers. */
export function CopyButton({ text, label }: { text: string; label: string }) {
  const [copied, setCopied] = useState(false);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      setCopied(true);
      setTimeout(() => setCopied(false), 1_500);
    } catch {
      // Browsers allow the clipboard only to pages of https and of this machine.
      showToast("The browser does not allow this page to copy. Select the text instead.", "error");
    }
  };
  return (
    <button type="button" class="quiet-button" aria-label={`Copy ${label}`} onClick={() => void copy()}>
      {copied ? "Copied" : "Copy"}
    </button>
  );
}

/** A command with a button that copies it. */
export function Command({ text }: { text: string }) {
  return (
    <div class="command">
      <code>{visibleText(text)}</code>
      <CopyButton text={text} label="the command" />
    </div>
  );
}
