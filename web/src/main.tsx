// The program of the page.

import "./styles/main.css";
import { render } from "preact";
import { keepTitle, Shell } from "./frame/shell";
import { applyTheme } from "./frame/theme";
import { loadIdentity } from "./rpc/session";
import { takeLinkCode } from "./views/signin/signin_view";

function start(root: HTMLElement): void {
  takeLinkCode();
  // A sign-in link that the user enters in a tab of the page changes only the hash. The page is not loaded again.
  addEventListener("hashchange", takeLinkCode);
  void loadIdentity();
  applyTheme();
  keepTitle();
  render(<Shell />, root);
  document.getElementById("starting")?.remove(); // It says that the page is loading, see `start.ts`.
}

const root = document.getElementById("app");
if (!root) throw new Error("index.html has no element #app");
// A slow program may arrive a second time, because `start.ts` has requested it again.
if (!root.hasChildNodes()) start(root);
