// The place of a view whose program is loaded when the view is opened.

import { useEffect, useRef, useState } from "preact/hooks";
import { Empty, Loading } from "../../parts/empty";
import type { Host, Mount } from "./host";
import { loadProgram, OtherReleaseError } from "./load_program";

type Failure = "" | "loading" | "release";

interface Props<P, H extends Host> {
  /** The name of the file, without its ending. */
  readonly name: string;
  readonly mountOf: (program: P) => Mount<H>;
  readonly host: H;
  /** What the program shows, for example `the stacks`. */
  readonly what: string;
}

/** Loads a program, and lets it draw with the host of the first drawing. Give the component a key for each host. */
export function LaterProgram<P extends { readonly BUILD: string }, H extends Host>({ name, mountOf, host, what }: Props<P, H>) {
  const element = useRef<HTMLDivElement>(null);
  const [attempt, setAttempt] = useState(1);
  const [isDrawn, setDrawn] = useState(false);
  const [failure, setFailure] = useState<Failure>("");
  useEffect(() => {
    let unmount: (() => void) | null = null;
    let isLeft = false;
    setFailure("");
    loadProgram<P>(name).then(
      (program) => {
        if (isLeft || !element.current) return;
        unmount = mountOf(program)(element.current, host);
        setDrawn(true);
      },
      (error: unknown) => {
        if (!isLeft) setFailure(error instanceof OtherReleaseError ? "release" : "loading");
      },
    );
    return () => {
      isLeft = true;
      unmount?.();
    };
  }, [attempt]);
  return (
    <>
      {!isDrawn && !failure && <Loading what={what} />}
      {failure === "release" && (
        <Empty title="The cluster has another release of the page now">
          <button type="button" class="button" onClick={() => location.reload()}>
            Load the page again
          </button>
        </Empty>
      )}
      {failure === "loading" && (
        <Empty title="A part of the page cannot be loaded">
          <p>Check that the cluster is up, and that a proxy or SSH forward is open.</p>
          <button type="button" class="button" onClick={() => setAttempt(attempt + 1)}>
            Try again
          </button>
        </Empty>
      )}
      <div ref={element} class="later-program" />
    </>
  );
}
