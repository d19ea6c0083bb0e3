// SPDX-License-Identifier: Apache-2.0
// The page of visualize-embeddings in a headless Chromium: it draws, answers to the mouse, selects, and
// stays smooth at 200,000 points. Skipped with a reason where there is no Chromium.

import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { type Browser, chromium, type Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { visualPage } from "../../src/embed/visualize/page.ts";
import type { PointSet } from "../../src/embed/visualize/points.ts";
import { scratch } from "../embed/support.ts";

function chromiumPath(): string | null {
  const asked = process.env.CHROMIUM_PATH;
  if (asked !== undefined) return existsSync(asked) ? asked : null;
  for (const name of ["chromium", "chromium-browser", "google-chrome"]) {
    try {
      return execFileSync("which", [name], { encoding: "utf8" }).trim();
    } catch {
      // Try the next name.
    }
  }
  return null;
}

interface PageHandle {
  screenOf(i: number): [number, number];
  pick(x: number, y: number): number;
  exported(): { row_id: string }[];
  frames(): number;
  scriptMs(): number;
  spin(by: number): void;
}
declare global {
  interface Window {
    chatspace: PageHandle;
  }
}

/** Two clouds far apart; the first half of the points is cloud "a". */
function clouds(rows: number, dims: 2 | 3): PointSet {
  const positions = new Float32Array(rows * 3);
  let state = 7;
  const next = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32 - 0.5;
  };
  const codes = new Float32Array(rows);
  for (let i = 0; i < rows; i++) {
    const second = i >= rows / 2;
    codes[i] = second ? 1 : 0;
    positions.set([(second ? 6 : -6) + next() * 4, next() * 8, dims === 3 ? next() * 4 : 0], i * 3);
  }
  return {
    rows,
    dims,
    positions,
    text: Array.from({ length: rows }, (_, i) => `text of row ${i} <b>& "${i % 10}"</b>`),
    ids: Array.from({ length: rows }, (_, i) => String(i + 1000)),
    columns: [
      { name: "dataset", kind: "category", labels: ["a", "b"], values: codes },
      {
        name: "amount",
        kind: "number",
        labels: [],
        values: Float32Array.from({ length: rows }, (_, i) => i),
      },
    ],
    shards: new Array(rows).fill(null),
    shardRows: new Array(rows).fill(-1),
  };
}

const executablePath = chromiumPath();
if (executablePath === null) console.warn("skipped: no Chromium found (set CHROMIUM_PATH)");

describe.skipIf(executablePath === null)("the page of points in a browser", () => {
  const work = scratch("visualize");
  let browser: Browser;
  const errors: string[] = [];

  const openPage = async (points: PointSet): Promise<Page> => {
    const file = join(work, `page-${points.rows}-${points.dims}.html`);
    await writeFile(file, visualPage(points, { title: "two clouds", served: false }));
    const page = await browser.newPage({ viewport: { width: 1100, height: 750 } });
    page.on("pageerror", (error) => errors.push(String(error)));
    page.on("console", (message) => {
      if (message.type() === "error") errors.push(message.text());
    });
    page.on("request", (request) => {
      if (/^https?:/.test(request.url())) errors.push(`the page asked for ${request.url()}`);
    });
    await page.goto(pathToFileURL(file).href);
    await page.waitForFunction(() => window.chatspace !== undefined && window.chatspace.frames() > 0);
    return page;
  };

  beforeAll(async () => {
    browser = await chromium.launch({
      executablePath: executablePath as string,
      args: ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"],
    });
  });
  afterAll(async () => {
    await browser?.close();
    expect(errors).toEqual([]);
  });

  it("draws both clouds in their colours, shows text on hover and the row on a click", async () => {
    const page = await openPage(clouds(400, 2));
    const pixels = await page.evaluate(() => {
      const canvas = document.getElementById("plot") as HTMLCanvasElement;
      const gl = canvas.getContext("webgl2") as WebGL2RenderingContext;
      const all = new Uint8Array(canvas.width * canvas.height * 4);
      gl.readPixels(0, 0, canvas.width, canvas.height, gl.RGBA, gl.UNSIGNED_BYTE, all);
      let left = 0;
      let right = 0;
      for (let i = 0; i < all.length; i += 4) {
        if (all[i + 3] === 0) continue;
        if ((i / 4) % canvas.width < canvas.width / 2) left++;
        else right++;
      }
      return { left, right };
    });
    expect(pixels.left).toBeGreaterThan(500);
    expect(pixels.right).toBeGreaterThan(500);
    // The uppermost point under the mouse is one that the page names itself.
    const [x, y, hit] = await page.evaluate(() => {
      const [px, py] = window.chatspace.screenOf(17);
      return [px, py, window.chatspace.pick(px, py)] as const;
    });
    await page.mouse.move(x, y);
    await page.waitForSelector("#tip:not([hidden])");
    expect(await page.textContent("#tip")).toBe(`text of row ${hit} <b>& "${hit % 10}"</b>`);
    await page.mouse.click(x, y);
    await page.waitForSelector("#panel:not([hidden])");
    expect(await page.textContent("#panel h2")).toBe(`row ${hit + 1000}`);
    await page.close();
  });

  it("selects by lasso and exports the ids", async () => {
    const page = await openPage(clouds(400, 2));
    await page.click("#lasso");
    // Around the left half, below the tool bar.
    const corners = [
      [20, 80],
      [545, 80],
      [545, 740],
      [20, 740],
      [20, 90],
    ] as const;
    await page.mouse.move(20, 80);
    await page.mouse.down();
    for (const [x, y] of corners) await page.mouse.move(x, y, { steps: 4 });
    await page.mouse.up();
    const ids = await page.evaluate(() => window.chatspace.exported().map((row) => Number(row.row_id)));
    expect(ids).toEqual(Array.from({ length: 200 }, (_, i) => i + 1000));
    expect(await page.textContent("#status")).toBe("200 selected of 400");
    const [download] = await Promise.all([page.waitForEvent("download"), page.click("#export")]);
    expect(download.suggestedFilename()).toBe("selection.json");
    await page.close();
  });

  it("finds by text and by id, hides a label, colours by a number", async () => {
    const page = await openPage(clouds(400, 2));
    await page.fill("#search", "row 39");
    expect(await page.textContent("#status")).toBe("11 found of 400");
    await page.fill("#search", "1007");
    expect(await page.textContent("#status")).toBe("1 found of 400");
    await page.click("#reset");
    await page.uncheck('#legend input[data-label="a"]');
    expect(await page.textContent("#status")).toBe("200 shown of 400");
    await page.selectOption("#colour", { label: "amount" });
    expect(await page.textContent("#legend")).toBe("0.000 to 399.0");
    await page.close();
  });

  it("turns 200,000 points in three dimensions without stalling", async () => {
    const page = await openPage(clouds(200_000, 3));
    const result = await page.evaluate(async () => {
      const started = performance.now();
      const before = window.chatspace.frames();
      const scriptBefore = window.chatspace.scriptMs();
      while (performance.now() - started < 3000) {
        window.chatspace.spin(0.02);
        await new Promise((resolve) => requestAnimationFrame(resolve));
      }
      const frames = window.chatspace.frames() - before;
      const rate = frames / ((performance.now() - started) / 1000);
      const scriptMs = (window.chatspace.scriptMs() - scriptBefore) / Math.max(frames, 1);
      const pickStarted = performance.now();
      for (let i = 0; i < 10; i++) window.chatspace.pick(300 + i, 300);
      return { rate, scriptMs, pickMs: (performance.now() - pickStarted) / 10 };
    });
    console.log(
      `200,000 points: ${result.rate.toFixed(1)} frames/s in software GL, ${result.scriptMs.toFixed(2)} ms of script a frame, ${result.pickMs.toFixed(1)} ms a pick`,
    );
    // Without a GPU the processor draws, as fast as it can; the script's own share of a frame is what counts.
    expect(result.scriptMs).toBeLessThan(8);
    expect(result.pickMs).toBeLessThan(100);
    const shot = process.env.CHATSPACE_SCREENSHOTS;
    if (shot) await page.screenshot({ path: join(shot, "visualize-200k.png") });
    await page.close();
  });
});
