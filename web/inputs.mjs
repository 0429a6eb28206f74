// Computes the SHA-256 of everything that determines the built assets.
//
// `tests/support/page_staleness.py` computes the same number without Node. Change both programs together.

import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

const FILES = ["build.mjs", "buf.gen.yaml", "generate.mjs", "index.html", "inputs.mjs", "package.json", "tsconfig.json"];
const PROTO = "proto/iris/rpc/cluster.proto";

/** Returns the hash, in hexadecimal digits, for the repository in a directory. */
export function hashOfInputs(repository) {
  const web = join(repository, "web");
  const sources = readdirSync(join(web, "src"), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name).slice(web.length + 1))
    .filter((path) => !path.startsWith("src/gen/"));
  const hash = createHash("sha256");
  for (const path of [...FILES, ...sources].sort()) {
    hash.update(`${path}\n`).update(readFileSync(join(web, path))).update("\n");
  }
  // Comments of the proto file do not change the assets.
  const lines = readFileSync(join(repository, PROTO), "utf8").split("\n");
  hash.update(lines.filter((line) => line.trim() && !line.trim().startsWith("//")).join("\n"));
  return hash.digest("hex");
}
