// Loads the program of the page, and loads it again if that fails.
//
// A browser never repeats a failed request of a script or a style sheet. A request fails, for example, when the network
// of the computer changes, or when a proxy restarts. Without this program, the page would then stay empty.
//
// 1. Load `app.js`. The document itself has asked for `app.css`.
// 2. If a file fails, or does not arrive in time, load it again under another address. The browser may remember that the
//    first address has failed.
// 3. Until the page is drawn, say what is going on, with a button that loads the whole page again.

const PAUSES_MS = [300, 1_000, 3_000, 10_000];
// A file that has not arrived after this time is requested a second time. Each further request waits longer than the one
// before, because on a slow connection all of them share its speed.
const DEADLINE_MS = 20_000;
// The request of the style sheet may have failed before this program began, so that no event tells of it.
const STYLES_DEADLINE_MS = 5_000;
const SLOW_MS = 8_000;

type FileElement = HTMLScriptElement | HTMLLinkElement;

/** Waits for a file, and requests the file again after a failure or at the deadline. */
function watch(
  name: string,
  element: FileElement,
  create: (url: string) => FileElement,
  deadlineMs = DEADLINE_MS,
  attempt = 1,
): void {
  let isDecided = false;
  const again = (pauseMs: number) => {
    if (isDecided) return;
    isDecided = true;
    clearTimeout(deadline);
    setTimeout(() => {
      if (hasArrived(name)) return; // An earlier request was slow, and has succeeded.
      const next = create(`${name}?attempt=${attempt + 1}`);
      watch(name, next, create, DEADLINE_MS * (attempt + 1), attempt + 1);
      document.head.append(next);
    }, pauseMs);
  };
  const deadline = setTimeout(() => again(0), deadlineMs);
  element.addEventListener("load", () => {
    isDecided = true;
    clearTimeout(deadline);
  });
  element.addEventListener("error", () => {
    say("A part of the page could not be loaded. Trying again…");
    if (element instanceof HTMLLinkElement) element.remove();
    again(PAUSES_MS[Math.min(attempt, PAUSES_MS.length) - 1]!);
  });
}

function scriptOf(url: string): HTMLScriptElement {
  const script = document.createElement("script");
  script.type = "module";
  script.src = url;
  return script;
}

function styleSheetOf(url: string): HTMLLinkElement {
  const link = document.createElement("link");
  link.rel = "stylesheet";
  link.href = url;
  return link;
}

/** Returns whether any request of a file has succeeded. */
function hasArrived(name: string): boolean {
  if (name === "app.js") return document.getElementById("starting") === null; // `main.tsx` removes the element.
  return [...document.querySelectorAll<HTMLLinkElement>("link[rel=stylesheet]")].some(hasRules);
}

/** Returns whether a style sheet has arrived. A sheet whose request has failed is empty. */
function hasRules({ sheet }: HTMLLinkElement): boolean {
  try {
    return sheet !== null && sheet.cssRules.length > 0;
  } catch {
    return false; // Chromium forbids reading a sheet whose request has failed.
  }
}

/** Shows a message with a button that loads the page again, unless the page was drawn. */
function say(message: string): void {
  const starting = document.getElementById("starting");
  if (!starting) return;
  const text = document.createElement("p");
  text.textContent = message;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "button";
  button.textContent = "Load the page again";
  button.addEventListener("click", () => location.reload());
  starting.classList.remove("loading");
  starting.replaceChildren(text, button);
}

const slow = "The page is still loading. The connection to the cluster is slow, or is blocked.";
const slowTimer = setTimeout(() => say(slow), SLOW_MS);
addEventListener("error", ({ message }) => {
  // A failed request of a file sends its event to the element of the file. Only exceptions reach the window.
  clearTimeout(slowTimer); // The connection is not the cause.
  say(`The page could not start: ${message}. If loading it again does not help, update the browser.`);
});

const script = scriptOf("app.js");
watch("app.js", script, scriptOf);
document.head.append(script);
const link = document.querySelector<HTMLLinkElement>("link[rel=stylesheet]");
if (link && !hasRules(link)) watch("app.css", link, styleSheetOf, STYLES_DEADLINE_MS);

export {}; // Without an export, TypeScript takes the names of this file as names of all files.
