// The program of the page.

import "./styles/main.css";
import { render } from "preact";
import { keepTitle, Shell } from "./frame/shell";
import { applyTheme } from "./frame/theme";

const root = document.getElementById("app");
if (!root) throw new Error("index.html has no element #app");
applyTheme();
keepTitle();
render(<Shell />, root);
