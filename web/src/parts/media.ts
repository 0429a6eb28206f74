// Whether a media query matches, for components whose layout depends on the width of the page.

import { useEffect, useState } from "preact/hooks";

/** Returns whether a media query such as `(max-width: 760px)` matches now. The component is drawn again at a change. */
export function useMedia(query: string): boolean {
  const [matches, setMatches] = useState(() => matchMedia(query).matches);
  useEffect(() => {
    const list = matchMedia(query);
    const onChange = () => setMatches(list.matches);
    onChange();
    list.addEventListener("change", onChange);
    return () => list.removeEventListener("change", onChange);
  }, [query]);
  return matches;
}
