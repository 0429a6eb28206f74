// The bar that says that the page has lost its connection, since when, and when it tries again; or that other tabs use
// all connections of the browser.

import { connection, isPaused, retryNow } from "../rpc/connection";
import { now } from "../parts/clock";
import { clockTime, secondsText } from "../parts/time_text";

/** The bar. Nothing is shown while the connection works. */
export function ConnectionBar() {
  const lost = connection.value;
  if (!lost && isPaused.value) return <PausedBar />;
  if (!lost) return <div role="status" />;
  const waitMs = Math.max(0, lost.retryAtMs - now.value);
  return (
    <div class="connection-bar" role="status">
      <span>
        The connection was lost at {clockTime(lost.sinceMs)}. {lost.why && `${lost.why} `}What you see may be old.
      </span>
      {/* The countdown is not announced, because a screen reader would read it each second. */}
      <span class="muted" aria-hidden="true">
        {waitMs > 0 ? `Trying again in ${secondsText(waitMs)}` : "Trying again…"}
      </span>
      <button type="button" class="quiet-button" onClick={retryNow}>
        Try now
      </button>
    </div>
  );
}

function PausedBar() {
  return (
    <div class="connection-bar" role="status">
      <span>This tab is updated every few seconds, because other tabs of this page use all connections of the browser.</span>
      <button type="button" class="quiet-button" onClick={retryNow}>
        Update at once
      </button>
    </div>
  );
}
