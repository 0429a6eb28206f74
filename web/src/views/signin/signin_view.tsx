// The form that asks for a token, and what is shown while the code of a link signs the browser in.

import "./signin.css";
import { signal } from "@preact/signals";
import { useEffect, useRef, useState } from "preact/hooks";
import { navigate, route } from "../../frame/router";
import { hrefOf, type Route } from "../../frame/routes";
import { Command } from "../../parts/copy";
import { describeError } from "../../rpc/errors";
import { needsSignIn, newRequestId, signIn, signInProblem } from "../../rpc/session";
import { codeOfLink, type LinkCode } from "./link_code";
import { refusalText } from "./refusals";

const link = signal<(LinkCode & { requestId: string }) | null>(null);

/**
 * Takes the code out of the page's address, so that it stays neither there nor in the browser's history. The page calls
 * this function at its start, before anything else reads the address, and after each change of the hash.
 */
export function takeLinkCode(): void {
  const found = codeOfLink(location.hash);
  if (!found) return;
  navigate(found.next, { replace: true });
  link.value = { ...found, requestId: newRequestId() };
}

/** Whether a link signs the browser in at the moment. */
export function isUsingLink(): boolean {
  return link.value !== null;
}

/** The form that asks for a token. */
export function SignInView(_: { route: Route }) {
  const used = link.value;
  useEffect(() => {
    // Only the address `#/signin` shows this view to a user who is signed in.
    if (!needsSignIn.value && !used && route.peek().view === "signin") navigate(hrefOf("jobs"), { replace: true });
  }, [needsSignIn.value, used]);
  return used ? <LinkProgress key={used.requestId} {...used} /> : <TokenForm />;
}

function LinkProgress({ code, requestId }: LinkCode & { requestId: string }) {
  const [failure, setFailure] = useState<{ text: string; isFinal: boolean } | null>(null);
  const use = async () => {
    setFailure(null);
    try {
      await signIn({ case: "code", value: code }, requestId);
      link.value = null;
    } catch (error) {
      setFailure({ text: refusalText(error), isFinal: describeError(error).kind !== "connection" });
    }
  };
  useEffect(() => void use(), []);
  if (!failure) {
    return (
      <p class="notice loading" role="status">
        Signing in…
      </p>
    );
  }
  return (
    <section class="notice sign-in">
      <h1>Sign in</h1>
      <p role="alert">{failure.text}</p>
      {!failure.isFinal && (
        <button type="button" class="button button-primary" onClick={() => void use()}>
          Try again
        </button>
      )}
      <button type="button" class="button" onClick={() => (link.value = null)}>
        Use a token instead
      </button>
    </section>
  );
}

function TokenForm() {
  const [token, setToken] = useState("");
  const [failure, setFailure] = useState(signInProblem.peek() === null ? "" : refusalText(signInProblem.peek()));
  const [isBusy, setBusy] = useState(false);
  const field = useRef<HTMLInputElement>(null);
  const submit = async (event: Event) => {
    event.preventDefault();
    setBusy(true);
    try {
      await signIn({ case: "token", value: token.trim() }, newRequestId());
    } catch (error) {
      setFailure(refusalText(error));
      field.current?.focus();
    }
    setBusy(false);
  };
  return (
    <section class="notice sign-in">
      <h1>Sign in</h1>
      {failure && (
        <p role="alert" id="sign-in-problem">
          {failure}
        </p>
      )}
      <p>The user who started the cluster types this command. It opens the page and signs the browser in:</p>
      <Command text="iris web" />
      <form onSubmit={(event) => void submit(event)}>
        <label for="token">Or enter a token</label>
        <input
          id="token"
          ref={field}
          type="password"
          autoComplete="off"
          autoCapitalize="none"
          spellcheck={false}
          required
          aria-describedby={failure ? "sign-in-problem" : undefined}
          value={token}
          onInput={(event) => setToken(event.currentTarget.value)}
        />
        <button type="submit" class="button button-primary" disabled={isBusy}>
          Sign in
        </button>
      </form>
      <p>An admin of the cluster makes a token with this command:</p>
      <Command text="iris token create NAME --role reader" />
    </section>
  );
}
