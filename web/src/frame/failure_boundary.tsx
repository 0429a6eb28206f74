// Keeps the frame of the page on the screen when a view fails because of a fault in its program.

import { Component, type ComponentChildren } from "preact";

interface Props {
  readonly children: ComponentChildren;
}

/** Draws a view. If drawing it throws an exception, a message with a button takes the view's place. */
export class FailureBoundary extends Component<Props, { failure: string }> {
  override state = { failure: "" };

  override componentDidCatch(error: unknown): void {
    reportError(error); // The browser's console shows the exception with its stack.
    this.setState({ failure: error instanceof Error ? error.message : String(error) });
  }

  override render() {
    if (!this.state.failure) return this.props.children;
    return (
      <section class="notice" role="alert">
        <h1>This view has failed</h1>
        <p>The program of the page has a fault here: {this.state.failure}</p>
        <button type="button" class="button" onClick={() => this.setState({ failure: "" })}>
          Show the view again
        </button>
      </section>
    );
  }
}
