// Runs the tests of the page's pure programs: bundles all test/*.test.ts, and runs them with Node's test runner in one
// process, because a process for each file would cost more CPU time.
//
//   node test/run.mjs

import { build } from "esbuild";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const folder = fileURLToPath(new URL(".", import.meta.url));
const names = readdirSync(folder).filter((name) => name.endsWith(".test.ts"));
const outdir = mkdtempSync(join(tmpdir(), "iris-web-tests-"));
const program = join(outdir, "all.test.mjs");
try {
  await build({
    stdin: { contents: names.map((name) => `import "./${name}";`).join("\n"), resolveDir: folder },
    outfile: program,
    bundle: true,
    format: "esm",
    platform: "node",
    jsx: "automatic",
    jsxImportSource: "preact",
    loader: { ".css": "empty" },
    logLevel: "warning",
  });
  const { status } = spawnSync(process.execPath, ["--test", "--test-force-exit", program], { stdio: "inherit" });
  process.exitCode = status ?? 1;
} finally {
  rmSync(outdir, { recursive: true, force: true });
}
