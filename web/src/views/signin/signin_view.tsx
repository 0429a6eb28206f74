// The form that asks for a token.

import "./signin.css";
import { useState } from "preact/hooks";
import { navigate, route } from "../../frame/router";
import { hrefOf, type Route } from "../../frame/routes";
import { Command } from "../../parts/copy";
import { signIn } from "../../rpc/session";

/** The form that asks for a token. */
export function SignInView(_: { route: Route }) {
  const [token, setToken] = useState("");
  const submit = (event: Event) => {
    event.preventDefault();
    signIn(token.trim());
    if (route.peek().view === "signin") navigate(hrefOf("jobs"), { replace: true });
  };
  return (
    <section class="notice">
      <h1>Sign in</h1>
      <form onSubmit={submit}>
        <label for="token">Token</label>
        <input
          id="token"
          type="password"
          autoComplete="off"
          required
          value={token}
          onInput={(event) => setToken(event.currentTarget.value)}
        />
        <button type="submit" class="button button-primary">
          Sign in
        </button>
      </form>
      <p>An admin of the cluster makes a token with this command:</p>
      <Command text="iris token create NAME --role reader" />
    </section>
  );
}
