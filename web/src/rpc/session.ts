// The session of the page: who is signed in, and below which path the page makes its calls.
//
// The browser keeps the secret of the session in a cookie that no script can read. The page keeps only the path of the
// session, which alone gives no access.

import { Code, ConnectError, createClient, type Interceptor } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import { computed, signal, type ReadonlySignal } from "@preact/signals";
import { ControllerService, type Controller_Identity } from "../gen/iris/rpc/cluster_pb";

/** The address of the page, with a slash at its end. All addresses of calls begin with it, so any path prefix works. */
export const PAGE_URL = new URL(".", document.baseURI).href;

const PAGE_PATH = new URL(PAGE_URL).pathname;
// One origin may have the pages of several clusters, behind a proxy with a path for each.
const KEY = `iris.session ${PAGE_PATH}`;

const path = signal<string | null>(stored());
const identity = signal<Controller_Identity | null>(null);
const problem = signal<ConnectError | null>(null);
let isSigningOut = false;

/** Who is signed in; null before the controller has answered, and if nobody is signed in. */
export const me: ReadonlySignal<Controller_Identity | null> = identity;

/** Whether the page must ask for a token, because the browser has no session or the controller has refused it. */
export const needsSignIn: ReadonlySignal<boolean> = computed(() => path.value === null);

/** The error because of which the page asks for a token; null if nobody was signed in before. */
export const signInProblem: ReadonlySignal<ConnectError | null> = problem;

/** Whether the user may end and retry jobs. A reader may not, so the page shows a reader no buttons for it. */
export const mayChange: ReadonlySignal<boolean> = computed(() => ["user", "admin"].includes(identity.value?.role ?? ""));

/** Whether the user may create and revoke tokens. */
export const isAdmin: ReadonlySignal<boolean> = computed(() => identity.value?.role === "admin");

/**
 * Returns whether the user may read the stacks of a job's tasks, profile the tasks, and run commands in them. Only the
 * owner of the job and admins may.
 */
export function mayLookInside(owner: string): boolean {
  return isAdmin.value || (mayChange.value && identity.value?.name === owner);
}

/** Returns the address of a call or a download in the session, for example of `v1/jobs/train/logs`. */
export function sessionUrl(rest: string): string {
  return `${PAGE_URL}${path.peek() ?? "session"}/${rest}`;
}

/** Sends each call below the path of the session, and asks for a token if the controller refuses the session. */
export const inSession: Interceptor = (next) => async (request) => {
  const used = path.peek();
  const url = sessionUrl(request.url.slice(PAGE_URL.length));
  try {
    return await next({ ...request, url });
  } catch (error) {
    noteRefusal(error, used);
    throw error;
  }
};

/** The path of the session, which `noteRefusal` needs; null if nobody is signed in. */
export function sessionPath(): string | null {
  return path.peek();
}

/**
 * Asks for a token if an error says that the browser is not signed in. Nothing happens if the user has signed in again
 * since the call was made. While the user signs out, nothing happens either: the controller ends the open streams before
 * the browser gets the answer that deletes the cookie. `used` is the `sessionPath` with which the call was made.
 */
export function noteRefusal(error: unknown, used: string | null): void {
  if (isSigningOut || path.peek() !== used) return;
  const failed = ConnectError.from(error);
  if (failed.code === Code.Unauthenticated) forget(path.peek() === null ? null : failed);
}

/** Finds out who is signed in, for example at the start of the page, or after another tab has signed in. */
export async function loadIdentity(): Promise<void> {
  const used = path.peek();
  if (used === null) return;
  try {
    const { caller } = await inside.describeCluster({});
    if (path.peek() === used) identity.value = caller ?? null;
  } catch (error) {
    if (path.peek() !== used) return; // The user has signed in again or signed out meanwhile.
    const failed = ConnectError.from(error);
    if (failed.code === Code.PermissionDenied) forget(failed);
    // After a lost connection the views try again, and their calls find out whether the session has ended.
    else if (failed.code !== Code.Unauthenticated) setTimeout(() => void loadIdentity(), RETRY_MS);
  }
}

export type Credential = { case: "code" | "token"; value: string };

/** A session that the controller has opened, and that the page may not use yet. */
export interface OpenedSession {
  readonly caller: Controller_Identity | null;
  readonly path: string;
}

/**
 * Opens a session with a token, or with the code of a link. A link works once: repeat a failed call with the same
 * `requestId`.
 *
 * The promise rejects if the controller refuses the token or the code, or cannot be reached.
 */
export async function openSession(credential: Credential, requestId: string): Promise<OpenedSession> {
  const { caller, sessionPath } = await outside.signIn({ credential, pagePath: PAGE_PATH, requestId });
  return { caller: caller ?? null, path: sessionPath };
}

/** Makes the page's calls in a session that was opened. */
export function useSession(opened: OpenedSession): void {
  identity.value = opened.caller;
  problem.value = null;
  path.value = opened.path;
  try {
    localStorage.setItem(KEY, opened.path);
  } catch {
    // A browser may forbid storage. The session then lasts until the page is closed or loaded again.
  }
}

/** Ends a session that was opened, and that the page does not use. */
export async function closeSession({ path: unused }: OpenedSession): Promise<void> {
  const transport = createConnectTransport({ ...options, baseUrl: `${PAGE_URL}${unused}` });
  await createClient(ControllerService, transport).signOut({});
}

/** Signs in with a token. The promise rejects like the one of `openSession`. */
export async function signIn(credential: Credential, requestId: string): Promise<void> {
  useSession(await openSession(credential, requestId));
}

/** Ends the session. The browser is signed out also if the controller cannot be reached or knows no session. */
export async function signOut(): Promise<void> {
  const used = path.peek();
  isSigningOut = true;
  try {
    await inside.signOut({});
  } catch (error) {
    if (ConnectError.from(error).code !== Code.Unauthenticated) throw error;
  } finally {
    isSigningOut = false;
    if (path.peek() === used) forget(null); // Another tab may have signed in meanwhile.
  }
}

/** Returns a random id for a call that may be repeated, for example `signIn`. */
export function newRequestId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const RETRY_MS = 3_000;
const BASE_URL = PAGE_URL.replace(/\/$/, "");
// A browser waits for an answer for ever. The connection may be lost without an error.
const DEADLINE_MS = 20_000;
const options = { baseUrl: BASE_URL, useBinaryFormat: true, defaultTimeoutMs: DEADLINE_MS };
const outside = createClient(ControllerService, createConnectTransport(options));
const inside = createClient(ControllerService, createConnectTransport({ ...options, interceptors: [inSession] }));

// Signing in and out in one tab applies to all tabs of the page.
addEventListener("storage", (event) => {
  if (event.key !== KEY && event.key !== null) return;
  const kept = stored();
  // Another tab notices the end of the session before this tab gets the answer that deletes the cookie.
  if (isSigningOut && kept === null) return;
  path.value = kept;
  identity.value = null;
  void loadIdentity();
});

function forget(why: ConnectError | null): void {
  const ended = path.peek();
  path.value = null;
  identity.value = null;
  problem.value = why;
  try {
    // Another tab may have signed in again.
    if (localStorage.getItem(KEY) === ended) localStorage.removeItem(KEY);
  } catch {
    // A browser may forbid storage. Then there is nothing to remove.
  }
}

function stored(): string | null {
  try {
    const found = localStorage.getItem(KEY);
    return found !== null && /^session\/[0-9a-f]{32}$/.test(found) ? found : null;
  } catch {
    return null;
  }
}
