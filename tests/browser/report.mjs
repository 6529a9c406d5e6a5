// Opens a page of `medseg report --html` in Chromium as a reader would: sorts, filters, moves the
// slider, switches light and dark, and fails on any console message, page error or network request.
//
//   npm install playwright-core
//   node tests/browser/report.mjs report.html [FOLDER for screenshots] [chromium]
import { chromium } from "playwright-core";
import { pathToFileURL } from "node:url";
import assert from "node:assert";

const [page_file, shots, executablePath = "/usr/bin/chromium"] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"],
});
const problems = [];
for (const [name, width] of [["wide", 1400], ["narrow", 390]]) {
  for (const colorScheme of ["light", "dark"]) {
    const context = await browser.newContext({ viewport: { width, height: 900 }, colorScheme });
    const page = await context.newPage();
    page.on("console", (message) => problems.push(`console: ${message.text()}`));
    page.on("pageerror", (error) => problems.push(`error: ${error.message}`));
    page.on("dialog", (dialog) => { problems.push(`dialog: ${dialog.message()}`); dialog.dismiss(); });
    page.on("request", (request) => {
      if (!/^(file|data):/.test(request.url())) problems.push(`request: ${request.url()}`);
    });
    await page.goto(pathToFileURL(page_file).href);
    if (shots) await page.screenshot({ path: `${shots}/${name}_${colorScheme}.png` });

    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert(overflow <= 0, `${name}: the page is ${overflow} px wider than the window`);

    const column = await page.$$eval("#patients th", (heads) => heads.findIndex((head) => head.textContent === "Dice"));
    const values = () => page.$$eval("#patients tbody tr", (rows, index) => rows.map((row) => row.cells[index].textContent), column);
    for (const sign of [1, -1]) {
      await page.click(`#patients th:nth-child(${column + 1}) button`);
      const all = await values();
      const numbers = all.filter((text) => text !== "n/a").map(Number);
      assert.deepEqual(numbers, numbers.toSorted((a, b) => sign * (a - b)), "sorted");
      assert(all.slice(numbers.length).every((text) => text === "n/a"), "n/a last");
    }
    const rows = Number(await page.textContent("#shown"));
    await page.fill("#filter", "script");
    const few = Number(await page.textContent("#shown"));
    assert(few < rows, `filter: ${few} of ${rows}`);
    assert.equal(await page.locator("#patients tbody tr:visible").count(), few);
    await page.fill("#filter", "");
    await page.selectOption("#status", "missed");
    assert.equal(await page.locator("#patients tbody tr:visible").count(), Number(await page.textContent("#shown")));
    await page.selectOption("#status", "");

    const slider = page.locator(".viewer input").first();
    if (await slider.count()) {
      const viewer = page.locator(".viewer").first();
      await slider.fill("0");
      const first = await viewer.locator("img:visible").getAttribute("src");
      await slider.fill(await slider.getAttribute("max"));
      assert.notEqual(await viewer.locator("img:visible").getAttribute("src"), first, "slider");
      assert.equal(await viewer.locator("img:visible").count(), 1);
      if (shots) await viewer.screenshot({ path: `${shots}/${name}_${colorScheme}_viewer.png` });
    } else {
      console.log("no pictures in this page: slider not tried");
    }
    const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const before = await ground();
    await page.click("#theme");
    assert.notEqual(await ground(), before, "light and dark");
    await page.click("#theme");
    if (shots) await page.screenshot({ path: `${shots}/${name}_${colorScheme}_full.png`, fullPage: true });
    await context.close();
  }
}
await browser.close();
assert.deepEqual(problems, []);
console.log("sort, filter, slider and theme work; no console message");
