// Opens a page in a headless browser, and prints what the page shows as lines of JSON.
//
//   node drive_page.mjs NODE_MODULES BROWSER URL UNTIL
//
// The page has the elements #log and #state. The program ends when the text of #state matches the pattern UNTIL.

import { createRequire } from "node:module";

const [modules, browserPath, url, until] = process.argv.slice(2);
const { chromium } = createRequire(`${modules}/`)("playwright-core");
const browser = await chromium.launch({ executablePath: browserPath, args: ["--no-sandbox"] });
const page = await browser.newPage({ ignoreHTTPSErrors: true }); // The tests make their own certificates.
const print = (line) => console.log(JSON.stringify(line));
page.on("pageerror", (error) => print({ error: String(error) }));
await new Promise(async (resolve) => {
  await page.exposeFunction("shown", (name, text) => {
    print({ [name]: text });
    if (name === "state" && new RegExp(until).test(text)) resolve();
  });
  await page.addInitScript(() => {
    document.addEventListener("DOMContentLoaded", () => {
      for (const name of ["log", "state"]) {
        const element = document.getElementById(name);
        const options = { childList: true, characterData: true, subtree: true };
        new MutationObserver(() => window.shown(name, element.textContent)).observe(element, options);
      }
    });
  });
  await page.goto(url);
});
await browser.close();
