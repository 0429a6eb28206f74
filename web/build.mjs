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
const LICENSES = "licenses.txt";
const web = fileURLToPath(new URL(".", import.meta.url));
const repository = join(web, "..");
const assets = join(repository, "src", "iris", "web", "assets");
const watches = process.argv.includes("--watch");

const options = {
  absWorkingDir: web,
  entryPoints: { app: "src/main.tsx", start: "src/start.ts", worker: "src/worker.ts" },
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
  const { metafile } = await build({ ...options, metafile: true });
  writeFileSync(join(assets, LICENSES), licensesOf(Object.keys(metafile.inputs)));
  writeFileSync(join(assets, "inputs.sha256"), `${hashOfInputs(repository)}\n`);
  checkSize();
}

/** Returns the licenses of the packages whose files are in the bundles. The page itself does not load this text. */
function licensesOf(inputs) {
  const names = inputs.map((path) => /^node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path)?.[1]).filter(Boolean);
  const texts = [...new Set(names)].sort().map((name) => {
    const directory = join(web, "node_modules", name);
    const { version, license } = JSON.parse(readFileSync(join(directory, "package.json"), "utf8"));
    const file = readdirSync(directory).find((entry) => /^licen[cs]e/i.test(entry));
    return `${name} ${version}, license ${license}\n${file ? `\n${readFileSync(join(directory, file), "utf8").trim()}\n` : ""}`;
  });
  return `The page of Iris contains code of these packages.\n\n${texts.join("\n----\n\n")}`;
}

function checkSize() {
  const loaded = readdirSync(assets).filter((name) => name !== LICENSES);
  const files = loaded.map((name) => join(assets, name)).filter((path) => statSync(path).isFile());
  const bytes = files.reduce((sum, path) => sum + gzipSync(readFileSync(path)).length, 0);
  console.log(`the page has ${Math.round(bytes / 1000)} kB compressed`);
  if (bytes > MAX_GZIP_BYTES) {
    console.error(`the page may have at most ${MAX_GZIP_BYTES / 1000} kB compressed`);
    process.exit(1);
  }
}
