// The program of the view of a terminal. The page loads this program, with xterm.js, when the view is opened.

import "./views/inside/terminal/terminal.css";
import { render } from "preact";
import type { TerminalProgram } from "./views/inside/host";
import { TerminalProgramView } from "./views/inside/terminal/terminal_view";

export { BUILD } from "./build_id";

export const mountTerminal: TerminalProgram["mountTerminal"] = (element, host) => {
  render(<TerminalProgramView host={host} />, element);
  return () => render(null, element);
};
