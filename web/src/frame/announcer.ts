// Tells screen readers what has changed, without moving the focus.

/** Reads a text to users of a screen reader, when they are idle. A new text replaces an earlier one. */
export function announce(text: string): void {
  const region = document.getElementById("announcer");
  if (region) region.textContent = text;
}
