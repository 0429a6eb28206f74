// Bundles the page into src/iris/web/assets, with the hash of the sources in the file `inputs.sha256`.
//
//   node build.mjs [--watch]
//
// With --watch, the assets are built again after each change of a source, with source maps. Build without --watch
// before you commit.

import { build, context } from "esbuild";
import { copyFileSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { hashOfInputs } from "./inputs.mjs";

const MAX_GZIP_BYTES = 150_000;
const web = fileURLToPath(new URL(".", import.meta.url));
const repository = join(web, "..");
const assets = join(repository, "src", "iris", "web", "assets");
const watches = process.argv.includes("--watch");

const options = {
  absWorkingDir: web,
  entryPoints: { app: "src/main.tsx", worker: "src/worker.ts" },
  outdir: assets,
  bundle: true,
  format: "esm",
  target: "es2022",
  minify: !watches,
  sourcemap: watches ? "inline" : false,
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "none",
  charset: "utf8",
  logLevel: "warning",
};

rmSync(assets, { recursive: true, force: true });
mkdirSync(assets, { recursive: true });
copyFileSync(join(web, "index.html"), join(assets, "index.html"));
copyFileSync(join(web, "src", "icon.svg"), join(assets, "icon.svg"));
if (watches) {
  await (await context(options)).watch();
  console.log("watching; Ctrl-C ends");
} else {
  await build(options);
  writeFileSync(join(assets, "inputs.sha256"), `${hashOfInputs(repository)}\n`);
  checkSize();
}

function checkSize() {
  const files = readdirSync(assets).map((name) => join(assets, name)).filter((path) => statSync(path).isFile());
  const bytes = files.reduce((sum, path) => sum + gzipSync(readFileSync(path)).length, 0);
  console.log(`the page has ${Math.round(bytes / 1000)} kB compressed`);
  if (bytes > MAX_GZIP_BYTES) {
    console.error(`the page may have at most ${MAX_GZIP_BYTES / 1000} kB compressed`);
    process.exit(1);
  }
}
