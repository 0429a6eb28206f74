// A bar that shows how much of a resource is allocated and used.

import { shareText, type Share } from "./amounts";

/** The bar, with its amounts in words below or beside it. */
export function Meter({ share, isLarge = false }: { share: Share; isLarge?: boolean }) {
  const { total, allocated, used, name, text } = share;
  if (total <= 0) return <span class="muted">–</span>;
  const words = shareText(share);
  const part = (amount: number) => `${Math.min(100, Math.max(0, (amount / total) * 100))}%`;
  return (
    <div class={`meter ${isLarge ? "meter-large" : ""}`} title={`${name}: ${words}`}>
      {isLarge && <span class="meter-name">{name}</span>}
      <span class="meter-text numbers">
        <span class="visually-hidden">{`${name}: ${words}`}</span>
        <span aria-hidden="true">{isLarge ? words : `${text(allocated)} of ${text(total)}`}</span>
      </span>
      <span class="meter-bar" aria-hidden="true">
        <span class="meter-allocated" style={{ width: part(allocated) }} />
        {used !== null && <span class="meter-used" style={{ width: part(used) }} />}
      </span>
    </div>
  );
}
