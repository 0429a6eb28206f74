// What a view shows while it has nothing to show.

import type { ComponentChildren } from "preact";

/** Says that there is nothing, and what to do. */
export function Empty({ title, children }: { title: string; children?: ComponentChildren }) {
  return (
    <section class="notice">
      <h2>{title}</h2>
      {children}
    </section>
  );
}

/** Says that data is being loaded. The text appears after a short time, so that quick answers do not flicker. */
export function Loading({ what }: { what: string }) {
  return (
    <p class="notice loading" role="status">
      Loading {what}…
    </p>
  );
}
