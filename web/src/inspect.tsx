// The program of the views that show where tasks are. The page loads this program when such a view is opened.

import "./views/inside/profile/profile.css";
import "./views/inside/stacks/stacks.css";
import { render, type ComponentChild } from "preact";
import type { InspectProgram } from "./views/inside/host";
import { Profile } from "./views/inside/profile/profile";
import { Stacks } from "./views/inside/stacks/stacks";

export { BUILD } from "./build_id";

function mount(element: HTMLElement, view: ComponentChild): () => void {
  render(view, element);
  return () => render(null, element);
}

export const mountStacks: InspectProgram["mountStacks"] = (element, host) => mount(element, <Stacks host={host} />);

export const mountProfile: InspectProgram["mountProfile"] = (element, host) => mount(element, <Profile host={host} />);
