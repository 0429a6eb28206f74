// Why the controller refuses a token, a link or a session, in words for a person at the page.

import { describeError } from "../../rpc/errors";

const TEXTS: Readonly<Record<string, string>> = {
  TOKEN_INVALID: "This is not a token of this cluster, or a part of it is missing.",
  TOKEN_EXPIRED: "This token has expired. Ask an admin of the cluster for a new one.",
  TOKEN_REVOKED: "This token was revoked. Ask an admin of the cluster for a new one.",
  SESSION_ENDED: "Your session has ended. Sign in again.",
};

/** Returns why signing in has failed, or why a session has ended. */
export function refusalText(error: unknown): string {
  const { kind, reason, text, advice } = describeError(error);
  const known = TEXTS[reason];
  if (known) return known;
  const sentence = text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
  return kind === "connection" ? `${sentence} ${advice}` : sentence;
}
