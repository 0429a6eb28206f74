// A component that is drawn again only if its properties differ.

import { Component, type ComponentChild, type FunctionComponent } from "preact";

/** Returns a component that is drawn again only if `isSame` says that its properties differ. */
export function memo<P extends object>(
  Inner: FunctionComponent<P>,
  isSame: (before: Readonly<P>, after: Readonly<P>) => boolean,
): new (props: P) => Component<P> {
  return class Memo extends Component<P> {
    override shouldComponentUpdate(next: Readonly<P>): boolean {
      return !isSame(this.props as Readonly<P>, next);
    }

    override render(): ComponentChild {
      return Inner(this.props as P);
    }
  };
}
