// The current route, as a signal. Views read the signal, and change it with `navigate` and `changeQuery`.

import { signal, type ReadonlySignal } from "@preact/signals";
import { hrefOf, parseRoute, type Route } from "./routes";

const current = signal<Route>(parseRoute(location.hash));

export const route: ReadonlySignal<Route> = current;

window.addEventListener("hashchange", () => {
  current.value = parseRoute(location.hash);
});

/** Shows the view of an address such as `#/jobs`. With `replace`, the browser's back button skips the present address. */
export function navigate(href: string, { replace = false } = {}): void {
  if (replace) history.replaceState(null, "", href);
  else history.pushState(null, "", href);
  current.value = parseRoute(location.hash);
}

/**
 * Changes parameters of the present address, and keeps the others. An empty value removes a parameter. The change
 * replaces the present address, so that typing into a filter leaves no trail in the history.
 */
export function changeQuery(changes: Readonly<Record<string, string>>, { replace = true } = {}): void {
  const { view, jobId, query } = current.peek();
  const merged = new Map([...query, ...Object.entries(changes)]);
  navigate(hrefOf(view, jobId, merged), { replace });
}
