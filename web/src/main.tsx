// The program of the page.

import "./styles/main.css";
import { render } from "preact";
import { keepTitle, Shell } from "./frame/shell";
import { applyTheme } from "./frame/theme";
import { loadIdentity } from "./rpc/session";
import { takeLinkCode } from "./views/signin/signin_view";

const root = document.getElementById("app");
if (!root) throw new Error("index.html has no element #app");
takeLinkCode();
// A sign-in link that the user enters in a tab of the page changes only the hash. The page is not loaded again.
addEventListener("hashchange", takeLinkCode);
void loadIdentity();
applyTheme();
keepTitle();
render(<Shell />, root);
