// Who the user is: the token that calls send, and whether the page must ask for a token.

import { Code, ConnectError } from "@connectrpc/connect";
import { signal } from "@preact/signals";

const KEY = "iris.token";

/** Whether the controller has refused the page's token, so that the page asks for another one. */
export const needsSignIn = signal(false);

/** Adds the token to the headers of a call. */
export function authorise(headers: Headers): void {
  const token = sessionStorage.getItem(KEY);
  if (token) headers.set("authorization", `Bearer ${token}`);
}

/** Asks for a token if a call was refused because of the token. */
export function noteRefusal(error: unknown): void {
  if (ConnectError.from(error).code === Code.Unauthenticated) needsSignIn.value = true;
}

/** Uses a token for the calls of this tab. */
export function signIn(token: string): void {
  sessionStorage.setItem(KEY, token);
  needsSignIn.value = false;
}
