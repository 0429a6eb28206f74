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

// The limit of the files that the browser loads when the page is opened.
const MAX_GZIP_BYTES = 150_000;
const LICENSES = "licenses.txt";
// The programs that the page loads when one of their views is opened. Each is a bundle without parts of `app.js`, because
// the page may load `app.js` again under another address.
const LATER = { inspect: "src/inspect.tsx", terminal: "src/terminal.tsx" };
const web = fileURLToPath(new URL(".", import.meta.url));
const repository = join(web, "..");
const assets = join(repository, "src", "iris", "web", "assets");
const watches = process.argv.includes("--watch");

/**
 * Lets xterm.js live under the content security policy of the page, see `constructed_styles.ts`. The build fails if
 * another release of xterm.js sets its styles in other places.
 */
const stylesOfTerminal = {
  name: "styles of the terminal",
  setup({ onLoad }) {
    onLoad({ filter: /@xterm\/xterm\/lib\/xterm\.mjs$/ }, ({ path }) => {
      const functions = JSON.stringify(join(web, "src/views/inside/terminal/constructed_styles.ts"));
      const imports = `import { createStyleElement as irisStyleElement, setStyle as irisSetStyle } from ${functions};\n`;
      const library = replaced(
        replaced(readFileSync(path, "utf8"), /([\w.]+)\.createElement\("style"\)/g, "irisStyleElement($1)", 3),
        /(\w+)\.setAttribute\("style",/g, "irisSetStyle($1,", 1,
      );
      return { contents: imports + library, loader: "js" };
    });
  },
};

function replaced(text, pattern, replacement, expected) {
  const found = text.match(pattern)?.length ?? 0;
  if (found !== expected) throw new Error(`expected ${pattern} ${expected} times in xterm.js, found it ${found} times`);
  return text.replace(pattern, replacement);
}

const options = {
  absWorkingDir: web,
  entryPoints: { app: "src/main.tsx", start: "src/start.ts", worker: "src/worker.ts", ...LATER },
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
  plugins: [stylesOfTerminal],
  define: { IRIS_BUILD: JSON.stringify(watches ? "watched" : hashOfInputs(repository)) },
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
  const files = readdirSync(assets).filter((name) => name !== LICENSES && statSync(join(assets, name)).isFile());
  const sizeOf = (names) => names.reduce((sum, name) => sum + gzipSync(readFileSync(join(assets, name))).length, 0);
  const laterOf = (program) => files.filter((name) => name.startsWith(`${program}.`));
  const later = Object.keys(LATER).flatMap(laterOf);
  const bytes = sizeOf(files.filter((name) => !later.includes(name)));
  console.log(`the page has ${Math.round(bytes / 1000)} kB compressed`);
  for (const name of Object.keys(LATER)) console.log(`${name} adds ${Math.round(sizeOf(laterOf(name)) / 1000)} kB`);
  if (bytes > MAX_GZIP_BYTES) {
    console.error(`the page may have at most ${MAX_GZIP_BYTES / 1000} kB compressed, without the programs that it loads later`);
    process.exit(1);
  }
}
