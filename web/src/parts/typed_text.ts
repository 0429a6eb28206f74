// The text of an input field whose value is a part of the page's address.

import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";

const TYPING_MS = 300; // A change of a text is applied after this pause, so that typing opens no stream for each key.

export interface TypedText {
  readonly text: string;
  /** Sets the text that the user has typed, and applies the text after a pause. */
  readonly type: (text: string) => void;
  /** Applies the text at once. */
  readonly applyNow: () => void;
}

/**
 * Keeps the text of an input field. The text differs from `value` while the user types.
 *
 * A change of `value` replaces the text and cancels a waiting change, for example when the user clears all filters. The
 * value that the field itself has applied does not replace the text, because the user may have typed more meanwhile.
 *
 * @param value - the value in the address
 * @param apply - changes the address, and returns the value that is in the address then
 */
export function useTypedText(value: string, apply: (text: string) => string): TypedText {
  const [text, setText] = useState(value);
  const applied = useRef(value);
  const timer = useRef<ReturnType<typeof setTimeout> | undefined>(undefined);
  // A layout effect runs before the next key of the user. Another effect could overwrite what this key has typed.
  useLayoutEffect(() => {
    if (value === applied.current) return;
    clearTimeout(timer.current);
    applied.current = value;
    setText(value);
  }, [value]);
  useEffect(() => () => clearTimeout(timer.current), []);
  const applyText = (next: string) => {
    clearTimeout(timer.current);
    applied.current = apply(next);
  };
  const type = (next: string) => {
    setText(next);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => applyText(next), TYPING_MS);
  };
  return { text, type, applyNow: () => applyText(text) };
}
