// SPDX-License-Identifier: Apache-2.0
// Every family as the reference ran it: plain and under five programs, every layer's hidden state, and the
// greedy continuation. `npm run table:families` prints the same comparison as a table.

import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, test } from "vitest";
// @ts-expect-error a plain module of scripts/
import { measureFamily } from "../../scripts/lib/family-parity.mjs";
import { readSafetensors } from "../../src/formats/safetensors.ts";
import { toFloat32, toIntegers } from "../../src/formats/tensor.ts";
import { convert } from "../../src/model/convert.ts";
import { MODEL_TYPES } from "../../src/model/families/index.ts";
import { SteerModel } from "../../src/model/steer-model.ts";
import { shared } from "./golden.ts";

/** Of logits and hidden states, float32. */
const TOLERANCE = 1e-4;

interface Reference {
  folder: string;
  mid: number;
  late: number;
  model_type: string;
}
interface Parity {
  logits: number;
  hidden: number;
  steeredLogits: number;
  steeredHidden: number;
  cases: string[];
  greedy: Record<string, { of: number; equal: number }>;
}

const folders = [
  shared("golden/decoders"),
  fileURLToPath(new URL("../golden/decoders", import.meta.url)),
].filter((folder) => existsSync(join(folder, "index.json")));
const references = folders.flatMap((folder) => {
  const { models } = JSON.parse(readFileSync(join(folder, "index.json"), "utf8")) as {
    models: Record<string, Omit<Reference, "folder">>;
  };
  return Object.entries(models).map(([name, model]): [string, Reference] => [
    name,
    { ...model, folder: join(folder, name) },
  ]);
});

const work = mkdtempSync(join(tmpdir(), "chatspace-families-"));
afterAll(() => rmSync(work, { recursive: true, force: true }));
const api = { convert, SteerModel, readSafetensors, toFloat32, toIntegers };

describe("families against the reference implementation", () => {
  test.each(references)("%s: plain and steered runs, greedy tokens", async (name, reference) => {
    const found = (await measureFamily(api, reference, join(work, `${name}.pt`))) as Parity;
    const { logits, hidden, steeredLogits, steeredHidden } = found;
    const worst = { logits, hidden, steeredLogits, steeredHidden };
    const numbers = Object.entries(worst).map(([key, value]) => `${key} ${value.toExponential(1)}`);
    console.log(`${name} (${found.cases.join(" ")}): ${numbers.join(", ")}`);
    for (const value of Object.values(worst)) expect(value).toBeLessThanOrEqual(TOLERANCE);
    expect(found.cases.length).toBeGreaterThanOrEqual(3);
    expect(Object.keys(found.greedy).length).toBeGreaterThanOrEqual(2);
    for (const run of Object.values(found.greedy)) expect(run.equal).toBe(run.of);
  });

  test.skipIf(folders.length < 2)("no model type that can be converted is without a reference", () => {
    const covered = new Set(references.map(([, { model_type }]) => model_type));
    expect(MODEL_TYPES.filter((type) => !covered.has(type))).toEqual([]);
  });
});
