// Writes the messages of the wire as TypeScript into src/gen, from the proto file of the repository.
//
//   node generate.mjs
//
// `buf` comes with the group `dev` of the Python project. The generated code is not committed.

import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { fileURLToPath } from "node:url";

const web = fileURLToPath(new URL(".", import.meta.url));
const programs = join(web, "..", ".venv", "bin");
const cache = mkdtempSync(join(tmpdir(), "iris-buf-"));
const env = { ...process.env, PATH: `${programs}${delimiter}${process.env.PATH}`, BUF_CACHE_DIR: cache };
rmSync(join(web, "src", "gen"), { recursive: true, force: true });
const { status, error } = spawnSync("buf", ["generate", "../proto"], { cwd: web, env, stdio: "inherit" });
rmSync(cache, { recursive: true, force: true });
if (error) console.error(`buf cannot be started: ${error.message}. Run 'uv sync' in the repository first.`);
process.exit(status ?? 1);
