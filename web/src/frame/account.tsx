// Who is signed in, with the button that signs out.

import { me, needsSignIn, signOut } from "../rpc/session";
import { showError } from "./toasts";

/** The user's name and role, and a button that signs out. Nothing is shown before the user has signed in. */
export function Account() {
  const user = me.value;
  if (needsSignIn.value || !user) return null;
  return (
    <div class="account">
      <span class="account-name" title={`Signed in as ${user.name} with the role ${user.role}`}>
        {user.name} <span class="muted">{user.role}</span>
      </span>
      <button type="button" class="quiet-button" onClick={() => void signOut().catch(showError)}>
        Sign out
      </button>
    </div>
  );
}
