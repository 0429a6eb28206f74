// Loads the later programs of the page, each with its style sheet.

import { BUILD } from "../../build_id";

const PAUSES_MS = [300, 1_000, 3_000];

/** The error of a program that belongs to another release than the page, because the cluster was upgraded meanwhile. */
export class OtherReleaseError extends Error {
  override readonly name = "OtherReleaseError";
}

const loaded = new Map<string, Promise<unknown>>();

/**
 * Loads the program `NAME.js` and the style sheet `NAME.css` once. A failed request is repeated three times.
 *
 * The promise rejects with an `OtherReleaseError` if the program belongs to another release than the page.
 */
export function loadProgram<P extends { readonly BUILD: string }>(name: string): Promise<P> {
  let loading = loaded.get(name) as Promise<P> | undefined;
  if (!loading) {
    loading = load<P>(name);
    loading.catch(() => loaded.delete(name)); // The next call tries again.
    loaded.set(name, loading);
  }
  return loading;
}

async function load<P extends { readonly BUILD: string }>(name: string): Promise<P> {
  // The variable keeps the bundler from putting the program into the bundle of the page.
  const script = (query: string): Promise<P> => import(addressOf(`${name}.js${query}`));
  const [program] = await Promise.all([repeated(script), repeated((query) => styleSheet(`${name}.css${query}`))]);
  if (program.BUILD !== BUILD) throw new OtherReleaseError();
  return program;
}

/** Repeats a request under other addresses, because a browser remembers that the request of an address has failed. */
async function repeated<T>(request: (query: string) => Promise<T>): Promise<T> {
  for (const [index, pauseMs] of PAUSES_MS.entries()) {
    try {
      return await request(index === 0 ? "" : `?attempt=${index + 1}`);
    } catch {
      await new Promise((resolve) => setTimeout(resolve, pauseMs));
    }
  }
  return request(`?attempt=${Date.now()}`);
}

function styleSheet(name: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const link = document.createElement("link");
    link.rel = "stylesheet";
    link.href = addressOf(name);
    link.onload = () => resolve();
    link.onerror = () => {
      link.remove();
      reject(new Error(`${name} cannot be loaded`));
    };
    document.head.append(link);
  });
}

function addressOf(name: string): string {
  return new URL(name, document.baseURI).href;
}
