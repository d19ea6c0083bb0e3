// SPDX-License-Identifier: Apache-2.0
// An archive's forward as a flat list of calls against TorchScript's interpreter: one graph, two ways to run it. A
// call that is left out, taken twice, or reads a slot that something else has taken gives other bits.

import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, expect, test } from "vitest";
import { convert } from "../../src/model/convert.ts";
import { SteerModel } from "../../src/model/steer-model.ts";
import type { SteeringOperation } from "../../src/steering/program.ts";
import { shared } from "./golden.ts";

const folders = [
  shared("golden/decoders"),
  fileURLToPath(new URL("../golden/decoders", import.meta.url)),
].filter((folder) => existsSync(join(folder, "index.json")));
const references = folders.flatMap((folder) =>
  Object.keys(JSON.parse(readFileSync(join(folder, "index.json"), "utf8")).models).map(
    (name): [string, string] => [name, join(folder, name)],
  ),
);

const work = mkdtempSync(join(tmpdir(), "chatspace-calls-"));
afterAll(() => rmSync(work, { recursive: true, force: true }));

/** Sites before a norm, sites that are not, and operations that do not commute. */
function programOf(layers: number, width: number): SteeringOperation[] {
  const vector = Float32Array.from({ length: width }, (_, i) => Math.sin(i * 1.7));
  const other = Float32Array.from({ length: width }, (_, i) => Math.cos(i * 0.9));
  const last = layers - 1;
  return [
    { site: "embed", vector: other, scale: 0.1 },
    { site: "layers.0", vector, scale: 0.3 },
    { site: "layers.0", op: "cap", vector: other, min: -0.2, max: 0.2 },
    { site: "layers.0.attn", op: "rotate", vector, angle: 0.4 },
    { site: `layers.${last}.mlp`, op: "ablate", vector },
    { site: `layers.${last}`, op: "ablate", vector: other },
    { site: "final", vector, scale: 0.2 },
  ];
}

const PROMPT = Int32Array.from([5, 9, 2, 7, 11, 3, 8, 6, 4]);

/** Everything a run gives, as bytes. */
async function answers(path: string, how: "calls" | "interpreter"): Promise<Map<string, Buffer>> {
  if (how === "interpreter") process.env.CHATSPACE_INTERPRETER = "1";
  const model = await SteerModel.load(path, { device: "cpu", dtype: "float32" }).finally(() => {
    delete process.env.CHATSPACE_INTERPRETER;
  });
  try {
    expect(model.info.forward).toBe(how);
    const { layers, hiddenSize } = model.info;
    const each = Array.from({ length: layers }, (_, i) => [
      `layers.${i}`,
      `layers.${i}.attn`,
      `layers.${i}.mlp`,
    ]);
    const sites = ["embed", ...each.flat(), "final"];
    const got = new Map<string, Buffer>();
    for (const [name, steering] of Object.entries({ plain: [], steered: programOf(layers, hiddenSize) })) {
      const run = await model.forward(PROMPT, { steering, capture: { sites }, logits: "all" });
      got.set(`${name} logits`, Buffer.from(run.logits!.slice().buffer));
      for (const site of sites)
        got.set(`${name} ${site}`, Buffer.from(run.captures[site]!.data.slice().buffer));
      const { tokens } = await model.generate(PROMPT, {
        maxTokens: 6,
        ignoreEos: true,
        steering,
        temperature: 0,
      });
      got.set(`${name} tokens`, Buffer.from(tokens.slice().buffer));
    }
    return got;
  } finally {
    await model.dispose();
  }
}

test.each(references)(
  "%s: the list of calls does what the interpreter does, to the bit",
  async (name, folder) => {
    const path = join(work, `${name}.pt`);
    await convert(folder, path);
    const interpreted = await answers(path, "interpreter");
    const called = await answers(path, "calls");
    expect([...called.keys()]).toEqual([...interpreted.keys()]);
    const different = [...called.keys()].filter((key) => !called.get(key)!.equals(interpreted.get(key)!));
    expect(different).toEqual([]);
    expect(interpreted.get("plain logits")!.equals(interpreted.get("steered logits")!)).toBe(false);
  },
);

test.skipIf(references.length === 0)("an operator that fails in a run leaves the plan usable", async () => {
  const [name, folder] = references[0]!;
  const path = join(work, `${name}-fails.pt`);
  await convert(folder, path);
  const model = await SteerModel.load(path, { device: "cpu", dtype: "float32" });
  try {
    const before = await model.forward(PROMPT, { logits: "all" });
    await expect(model.forward(Int32Array.from([model.info.vocabSize + 5]), {})).rejects.toThrow();
    const after = await model.forward(PROMPT, { logits: "all" });
    expect(Buffer.from(after.logits!.buffer).equals(Buffer.from(before.logits!.buffer))).toBe(true);
  } finally {
    await model.dispose();
  }
});
