// Runs the tests of the page's pure programs: bundles each test/*.test.ts, and runs all of them with Node's test runner.
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
try {
  await build({
    entryPoints: names.map((name) => join(folder, name)),
    outdir,
    outExtension: { ".js": ".mjs" },
    bundle: true,
    format: "esm",
    platform: "node",
    jsx: "automatic",
    jsxImportSource: "preact",
    loader: { ".css": "empty" },
    logLevel: "warning",
  });
  const files = names.map((name) => join(outdir, name.replace(".ts", ".mjs")));
  const { status } = spawnSync(process.execPath, ["--test", "--test-force-exit", ...files], { stdio: "inherit" });
  process.exitCode = status ?? 1;
} finally {
  rmSync(outdir, { recursive: true, force: true });
}
