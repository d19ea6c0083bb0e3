// SPDX-License-Identifier: Apache-2.0
// Every task against upstream's own output, byte for byte, and every probe of its size search.
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { openHaystacks } from "../../src/ruler/data/haystacks.ts";
import { generateRows, rowLine } from "../../src/ruler/generate.ts";
import { RULER_TASKS, selectTasks } from "../../src/ruler/tasks/table.ts";
import { selectTokenizer } from "../../src/ruler/tokens/select.ts";
import { dataRoot, goldenRoot, goldenText, hasGolden } from "./ruler-golden.ts";

describe.skipIf(!hasGolden)("RULER data equals upstream's bytes", () => {
  const data = hasGolden ? openHaystacks({ data: fileURLToPath(dataRoot) }) : openHaystacks();
  for (const length of [512, 1024, 4096])
    for (const task of RULER_TASKS) {
      const folder = `cl100k_base/${length}/seed42/${task.name}`;
      if (!hasGolden || !existsSync(new URL(`${folder}/validation.jsonl`, goldenRoot))) continue;
      it(`${task.name} at ${length}`, async () => {
        const counter = await selectTokenizer("cl100k_base");
        const probes: string[] = [];
        const lines: string[] = [];
        const options = { counter, data, length, samples: 5, seed: 42 };
        const onProbe = (p: { size: number; tokens: number }) => probes.push(`${p.size}:${p.tokens}`);
        for (const row of generateRows(task, { ...options, onProbe })) lines.push(rowLine(row));
        const log = goldenText(`${folder}/search.log`).matchAll(
          /haystack size: (\d+), resulting tokens: (\d+)/g,
        );
        expect(probes).toEqual(Array.from(log, (m) => `${m[1]}:${m[2]}`));
        expect(lines.join("")).toBe(goldenText(`${folder}/validation.jsonl`));
      });
    }
});

describe.skipIf(!hasGolden)("RULER at 128k", () => {
  it("goes over to the large word list in cwe, and ends at the recorded size", async () => {
    const data = openHaystacks({ data: fileURLToPath(dataRoot) });
    const probes: number[] = [];
    const options = { counter: await selectTokenizer("cl100k_base"), data, length: 131072, samples: 1 };
    const rows = [
      ...generateRows(selectTasks("cwe")[0]!, { ...options, onProbe: ({ size }) => probes.push(size) }),
    ];
    expect(rows).toHaveLength(1);
    expect(probes.slice(3, 5)).toEqual([8896, 8402]);
    expect(data.sources.get("english_words")).toMatch(/english_words\.json$/);
    // Probes that fit, the largest last: 7970, since 7971 to 8001 do not.
    expect(Math.min(...probes.slice(8)) - 1).toBe(7970);
  });
});
