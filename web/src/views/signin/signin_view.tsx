// The form that asks for a token, and what is shown while the code of a link signs the browser in.

import "./signin.css";
import { signal } from "@preact/signals";
import { useEffect, useRef, useState } from "preact/hooks";
import { navigate, route } from "../../frame/router";
import { hrefOf, type Route } from "../../frame/routes";
import { showError } from "../../frame/toasts";
import { Command } from "../../parts/copy";
import { visibleText } from "../../parts/visible_text";
import { describeError } from "../../rpc/errors";
import {
  closeSession,
  loadIdentity,
  me,
  needsSignIn,
  newRequestId,
  openSession,
  signIn,
  signInProblem,
  useSession,
  type OpenedSession,
} from "../../rpc/session";
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
  const [opened, setOpened] = useState<OpenedSession | null>(null);
  const use = async () => {
    setFailure(null);
    try {
      await loadIdentity();
      const session = await openSession({ case: "code", value: code }, requestId);
      // A link of another person must not decide unnoticed as whom the user works.
      if (needsSignIn.peek() || !isSameUser(session)) return setOpened(session);
      useSession(session);
      link.value = null;
    } catch (error) {
      setFailure({ text: refusalText(error), isFinal: describeError(error).kind !== "connection" });
    }
    return undefined;
  };
  useEffect(() => void use(), []);
  if (opened) return <UserQuestion opened={opened} />;
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
        {needsSignIn.value ? "Use a token instead" : "Stay signed in as before"}
      </button>
    </section>
  );
}

function isSameUser({ caller }: OpenedSession): boolean {
  const user = me.peek();
  return user !== null && caller !== null && user.name === caller.name && user.role === caller.role;
}

/** Asks whether to sign in as the user of a link, or to change to this user. */
function UserQuestion({ opened }: { opened: OpenedSession }) {
  const present = me.value;
  const isSignedIn = !needsSignIn.value;
  const name = visibleText(opened.caller?.name ?? "");
  const accept = () => {
    useSession(opened);
    link.value = null;
  };
  const refuse = () => {
    link.value = null;
    closeSession(opened).catch(showError);
  };
  const stay = `Stay ${present ? visibleText(present.name) : "as before"}`;
  return (
    <section class="notice sign-in">
      <h1>{isSignedIn ? "Change the user?" : `Sign in as ${name}?`}</h1>
      <p role="alert">
        {isSignedIn && present && `This browser is signed in as ${visibleText(present.name)} with the role ${present.role}. `}
        The link belongs to {name} with the role {opened.caller?.role}. If somebody else sent you the link, do not use it: your
        work would belong to them.
      </p>
      {isSignedIn ? (
        <>
          <button type="button" class="button button-primary" onClick={refuse}>
            {stay}
          </button>
          <button type="button" class="button" onClick={accept}>
            Change to {name}
          </button>
        </>
      ) : (
        <>
          <button type="button" class="button button-primary" onClick={accept}>
            Sign in as {name}
          </button>
          <button type="button" class="button" onClick={refuse}>
            Do not sign in
          </button>
        </>
      )}
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
