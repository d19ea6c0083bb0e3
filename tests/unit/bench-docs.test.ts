// SPDX-License-Identifier: Apache-2.0
// A figure in the documentation that no kept measurement stands behind: the tables between "bench NAME"
// marks are bench/results/NAME.json rendered, to the letter.
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
// @ts-expect-error plain JavaScript without types
import { marked, readResult, render, renewed, resultFile } from "../../bench/lib/report.mjs";

const root = fileURLToPath(new URL("../../", import.meta.url));
const pages = ["README.md", "docs/performance.md"];
const RESULT = {
  name: "x",
  date: "2026-01-01T00:00:00.000Z",
  machine: "a machine",
  command: "node bench/x.mjs",
  lines: ["what was run"],
  tables: [{ caption: "float32", header: ["case", "tok/s"], rows: [["one", "10.0"]] }],
  notes: ["a note"],
};

describe("figures in the documentation", () => {
  it.each(pages)("%s shows what was measured", (page) => {
    const text = readFileSync(`${root}${page}`, "utf8");
    // Every opening mark has its closing one, or its table would be checked by nobody.
    expect(marked(text)).toHaveLength(text.split("<!-- bench ").length - 1);
    expect(text.split("<!-- end bench -->").length - 1).toBe(marked(text).length);
    for (const name of marked(text)) {
      expect(existsSync(resultFile(name)), `${page} shows ${name}: bench/results/${name}.json`).toBe(true);
      const { date, machine, command, tables } = readResult(name);
      expect(Number.isNaN(Date.parse(date))).toBe(false);
      expect(machine).toMatch(/cores/);
      expect(command).toMatch(/^node bench\//);
      expect(tables.length).toBeGreaterThan(0);
    }
    expect(renewed(text), "npm run bench:docs renews it").toBe(text);
  });

  it("notices a figure that was changed by hand, and renews it", () => {
    const page = `Words.\n\n<!-- bench x -->\n${render(RESULT)}<!-- end bench -->\nMore words.\n`;
    const read = () => RESULT;
    expect(renewed(page, read)).toBe(page);
    const better = page.replace("10.0", "99.0");
    expect(renewed(better, read)).not.toBe(better);
    expect(renewed(better, read)).toBe(page);
    // A dollar sign in a cell is text, not a pattern.
    const dollar = { ...RESULT, notes: ["$1 and $&"] };
    expect(renewed(page, () => dollar)).toContain("- $1 and $&");
  });

  it("renders rows that line up under their header", () => {
    const lines = render(RESULT).split("\n");
    const table = lines.filter((line: string) => line.startsWith("|"));
    expect(table).toEqual(["| case | tok/s |", "|------|------:|", "| one  |  10.0 |"]);
    expect(lines[0]).toBe("a machine");
  });
});
