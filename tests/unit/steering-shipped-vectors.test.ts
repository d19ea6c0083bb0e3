// SPDX-License-Identifier: Apache-2.0
// The vectors of the package: of the default model as the catalogue pins it, at every layer, both names,
// and the same as the reference's where that made one.
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { readSafetensors } from "../../src/formats/safetensors.ts";
import { toFloat32 } from "../../src/formats/tensor.ts";
import { DEFAULT_MODEL, MODEL_CATALOG } from "../../src/model/model-catalog.ts";
import { SteeringVector } from "../../src/steering/vector.ts";
import { listNamedVectors, resolveVector } from "../../src/steering/vector-names.ts";

const GOLDEN = fileURLToPath(new URL("../../../shared/golden/smollm2/smollm2.safetensors", import.meta.url));

test("names come in pairs of opposites", async () => {
  expect((await listNamedVectors()).map((vector) => vector.name)).toEqual(["calm", "angry", "happy", "sad"]);
  const [happy, sad] = await Promise.all([resolveVector("happy"), resolveVector("sad")]);
  expect([happy.name, sad.name]).toEqual(["happy", "sad"]);
  expect(happy.cosine(sad)).toBeCloseTo(-1, 12);
});

test.each(["happy", "calm"])("%s is of the default model's weights, at all 30 layers", async (name) => {
  const vector = await resolveVector(name);
  expect(vector.layers).toEqual(Array.from({ length: 30 }, (_, layer) => layer));
  expect(vector.width).toBe(576);
  expect(vector.model.name).toBe(DEFAULT_MODEL);
  const origin = MODEL_CATALOG.find((model) => model.name === DEFAULT_MODEL)!.origin;
  expect(origin.kind === "package" ? "" : origin.sha256).toBe(vector.model.weightHash);
  expect(vector.method).not.toBe("");
});

test.skipIf(!existsSync(GOLDEN))("happy is the reference's vector (../shared is absent)", async () => {
  const rows = toFloat32(readSafetensors(GOLDEN, { names: ["vectors"] }).tensors.get("vectors")!);
  const happy = await resolveVector("happy");
  let lowest = 1;
  let worst = 0;
  for (const layer of happy.layers) {
    const row = rows.subarray(layer * 576, (layer + 1) * 576);
    lowest = Math.min(lowest, happy.cosine(new SteeringVector({ directions: row }), { site: layer }));
    worst = Math.max(worst, Math.abs(happy.norm({ site: layer }) / Math.hypot(...row) - 1));
  }
  console.log(
    `happy against the reference: cosine >= ${lowest.toFixed(9)}, norms within ${worst.toExponential(1)}`,
  );
  expect(lowest).toBeGreaterThan(0.999999);
  expect(worst).toBeLessThan(1e-5);
});
