// The colour scheme: light, dark, or the scheme of the system. The choice is kept in the browser.

import { effect, signal } from "@preact/signals";

export type Theme = "system" | "light" | "dark";

const KEY = "iris.theme";
const ORDER: readonly Theme[] = ["system", "light", "dark"];

export const theme = signal<Theme>(stored());

/** Applies the theme to the page now, and after each change. */
export function applyTheme(): void {
  effect(() => {
    if (theme.value === "system") delete document.documentElement.dataset["theme"];
    else document.documentElement.dataset["theme"] = theme.value;
  });
}

/** Changes to the next theme: system, light, dark, and system again. */
export function switchTheme(): void {
  theme.value = ORDER[(ORDER.indexOf(theme.value) + 1) % ORDER.length] ?? "system";
  try {
    localStorage.setItem(KEY, theme.value);
  } catch {
    // A browser may forbid storage. The choice then lasts until the page is closed.
  }
}

function stored(): Theme {
  try {
    return ORDER.find((name) => name === localStorage.getItem(KEY)) ?? "system";
  } catch {
    return "system";
  }
}
