// Text of users as text of the page. Characters that change how the text around them is shown become visible escapes.

// Control characters except tab and newline, and the characters that change the direction of text.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g;
// Colours and other sequences with which a terminal is controlled: CSI, OSC, and sequences of two characters.
const TERMINAL = /\u001b(?:\[[0-?]*[ -/]*[@-~]|\][^\u0007\u001b]*(?:\u0007|\u001b\\)|[@-Z\\^_])/g;

/** Returns a text in which each hidden character is written as an escape, for example `\x1b` or `\u202e`. */
export function visibleText(text: string): string {
  return text.replace(HIDDEN, (character) => {
    const code = character.charCodeAt(0);
    return code < 0x100 ? `\\x${hex(code, 2)}` : `\\u${hex(code, 4)}`;
  });
}

/** Returns a line of a log without colours. Only the last part of a line that a progress bar has redrawn is kept. */
export function plainLine(line: string): string {
  const redrawn = line.replace(TERMINAL, "").replace(/\r+$/, "").split("\r");
  return visibleText(redrawn[redrawn.length - 1] ?? "");
}

const SAFE_WORD = /^[A-Za-z0-9_@%+=:,./-]+$/;

/** Returns a command as one line, with the quotes that a shell needs. */
export function commandLine(words: readonly string[]): string {
  return words.map((word) => (SAFE_WORD.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`)).join(" ");
}

function hex(code: number, digits: number): string {
  return code.toString(16).padStart(digits, "0");
}
