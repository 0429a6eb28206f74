// The code of a sign-in link, such as `#/signin?code=…&next=jobs%2Ftrain`, which the page uses once.

export interface LinkCode {
  readonly code: string;
  /** The address of the view to show afterwards, for example `#/jobs/train`. */
  readonly next: string;
}

/** Returns the code in the hash of a sign-in link, or null if the hash has none. */
export function codeOfLink(hash: string): LinkCode | null {
  const query = /^#\/signin\?(.*)$/.exec(hash)?.[1];
  if (query === undefined) return null;
  const parameters = new URLSearchParams(query);
  const code = parameters.get("code");
  // `next` becomes a hash, so it cannot lead to another page.
  return code ? { code, next: `#/${(parameters.get("next") ?? "").replace(/^[#/]+/, "")}` } : null;
}
