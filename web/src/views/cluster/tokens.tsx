// The tokens of the cluster, for admins: list, create and revoke.

import { useEffect, useState } from "preact/hooks";
import type { Controller_Token as Token } from "../../gen/iris/rpc/cluster_pb";
import { confirm } from "../../frame/dialog";
import { showError, showToast } from "../../frame/toasts";
import { CopyButton } from "../../parts/copy";
import { toNumber } from "../../parts/numbers";
import { Moment } from "../../parts/time";
import { me, newRequestId } from "../../rpc/session";
import { controller } from "../../rpc/transport";

const DAY_S = 86_400;
const LIFETIMES: readonly { label: string; seconds: number }[] = [
  { label: "1 day", seconds: DAY_S },
  { label: "30 days", seconds: 30 * DAY_S },
  { label: "1 year", seconds: 365 * DAY_S },
];
const ROLES: readonly { role: string; does: string }[] = [
  { role: "reader", does: "reads everything" },
  { role: "user", does: "submits and ends jobs" },
  { role: "admin", does: "may do everything" },
];

/** The tokens, with a form that creates one. */
export function Tokens() {
  const [tokens, setTokens] = useState<readonly Token[]>([]);
  const load = async () => {
    try {
      setTokens((await controller.listTokens({})).tokens);
    } catch (error) {
      showError(error);
    }
  };
  useEffect(() => void load(), []);
  return (
    <>
      <h2>Tokens</h2>
      <TokenForm onCreated={() => void load()} />
      <div class="table-box">
        <table class="list stack">
          <caption class="visually-hidden">Tokens</caption>
          <thead>
            <tr>
              <th scope="col">Name</th>
              <th scope="col">Role</th>
              <th scope="col">Created</th>
              <th scope="col">Expires</th>
              <th scope="col">Id</th>
              <th scope="col">
                <span class="visually-hidden">Revoke</span>
              </th>
            </tr>
          </thead>
          <tbody>
            {[...tokens].reverse().map((token) => (
              <TokenRow key={token.tokenId} token={token} onRevoked={() => void load()} />
            ))}
          </tbody>
        </table>
      </div>
    </>
  );
}

function TokenRow({ token, onRevoked }: { token: Token; onRevoked: () => void }) {
  const revokedAt = toNumber(token.revokedAtMs);
  const revoke = async () => {
    const isOwn = token.tokenId === me.peek()?.tokenId;
    const confirmed = await confirm({
      title: `Revoke the token of ${token.name}?`,
      text: isOwn
        ? "You have signed in with this token, so you are signed out. Programs and pages that use it lose access at once."
        : "Programs and pages that use this token lose access at once. A revoked token cannot be used again.",
      action: "Revoke token",
      dangerous: true,
    });
    if (!confirmed) return;
    try {
      await controller.revokeToken({ tokenId: token.tokenId });
      showToast(`The token of ${token.name} is revoked.`);
      onRevoked();
    } catch (error) {
      showError(error);
    }
  };
  return (
    <tr class={revokedAt ? "muted" : ""}>
      <th scope="row">
        <bdi>{token.name}</bdi>
      </th>
      <td>{token.role}</td>
      <td data-label="Created">
        <Moment ms={toNumber(token.createdAtMs)} />
      </td>
      <td data-label="Expires">
        {revokedAt ? (
          <>
            revoked <Moment ms={revokedAt} />
          </>
        ) : (
          <Moment ms={toNumber(token.expiresAtMs)} />
        )}
      </td>
      <td class="mono" data-label="Id">{token.tokenId}</td>
      <td>
        {!revokedAt && (
          <button type="button" class="button" aria-label={`Revoke the token of ${token.name}`} onClick={() => void revoke()}>
            Revoke
          </button>
        )}
      </td>
    </tr>
  );
}

function TokenForm({ onCreated }: { onCreated: () => void }) {
  const [name, setName] = useState("");
  const [role, setRole] = useState("reader");
  const [seconds, setSeconds] = useState(30 * DAY_S);
  const [created, setCreated] = useState<{ name: string; secret: string } | null>(null);
  const create = async (event: Event) => {
    event.preventDefault();
    try {
      const { token, secret } = await controller.createToken({ name: name.trim(), role, ttlSeconds: BigInt(seconds), requestId: newRequestId() });
      setCreated({ name: token?.name ?? name, secret });
      setName("");
      onCreated();
    } catch (error) {
      showError(error);
    }
  };
  return (
    <>
      <form class="token-form" onSubmit={(event) => void create(event)}>
        <label>
          Name <input required autoComplete="off" value={name} onInput={(event) => setName(event.currentTarget.value)} />
        </label>
        <label>
          Role{" "}
          <select value={role} onChange={(event) => setRole(event.currentTarget.value)}>
            {ROLES.map((one) => (
              <option key={one.role} value={one.role}>
                {one.role}: {one.does}
              </option>
            ))}
          </select>
        </label>
        <label>
          Valid for{" "}
          <select value={seconds} onChange={(event) => setSeconds(Number(event.currentTarget.value))}>
            {LIFETIMES.map((one) => (
              <option key={one.seconds} value={one.seconds}>
                {one.label}
              </option>
            ))}
          </select>
        </label>
        <button type="submit" class="button">
          Create token
        </button>
      </form>
      {created && (
        <div class="new-token" role="status">
          <p>
            The token of <bdi>{created.name}</bdi> is shown only this once. Whoever has it may call the cluster.
          </p>
          <div class="command">
            <code tabIndex={0}>{created.secret}</code>
            <CopyButton text={created.secret} label="the token" />
            <button type="button" class="quiet-button" onClick={() => setCreated(null)}>
              Hide
            </button>
          </div>
        </div>
      )}
    </>
  );
}
