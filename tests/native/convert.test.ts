// SPDX-License-Identifier: Apache-2.0
// Checkpoints of every family, converted by us, against the logits of the reference implementation.

import { existsSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, test } from "vitest";
import { readSafetensors } from "../../src/formats/safetensors.ts";
import { toFloat32, toIntegers } from "../../src/formats/tensor.ts";
import { convert } from "../../src/model/convert.ts";
import { load, run, worst } from "./converted-model.ts";

const DECODERS = fileURLToPath(new URL("../../../shared/golden/decoders/", import.meta.url));
const FAMILIES = [
  "llama",
  "llama-biased-tied",
  "llama3-rope",
  "llama-yarn",
  "mistral-sliding",
  "qwen2",
  "qwen3",
  "gpt2",
  "gpt-neox",
  "gemma2",
  "gemma3",
  "phi3",
  "olmo2",
  "granite",
  "qwen3-moe",
];
const LOGIT_TOLERANCE = 1e-4;

const folder = mkdtempSync(join(tmpdir(), "chatspace-convert-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe.skipIf(!existsSync(DECODERS))("converted checkpoints equal the reference", () => {
  test.each(FAMILIES)("%s", async (family) => {
    const archive = join(folder, `${family}.pt`);
    const metadata = await convert(join(DECODERS, family), archive);
    const golden = readSafetensors(join(DECODERS, family, "golden.safetensors")).tensors;
    const ids = toIntegers(golden.get("input_ids")!);
    const logits = toFloat32(golden.get("plain.logits")!);
    const hidden = toFloat32(golden.get("plain.hidden")!);
    const { layers, hiddenSize, vocabSize } = metadata;
    const length = ids.length / 2;
    const model = await load(archive);
    try {
      const deviations: number[] = [];
      for (let row = 0; row < 2; row++) {
        const sites = Array.from({ length: layers }, (_, layer) => `layers.${layer}`);
        const tokens = Int32Array.from(ids.slice(row * length, (row + 1) * length));
        const done = await run(model, tokens, sites);
        const size = length * vocabSize;
        deviations.push(worst(done.logits, logits.slice(row * size, (row + 1) * size)).value);
        done.captures.forEach((capture, layer) => {
          const start = (layer * 2 + row) * length * hiddenSize;
          const { value } = worst(capture.data, hidden.slice(start, start + length * hiddenSize));
          deviations.push(value);
        });
      }
      console.log(`${family}: max |delta| ${Math.max(...deviations).toExponential(2)}`);
      expect(Math.max(...deviations)).toBeLessThanOrEqual(LOGIT_TOLERANCE);
    } finally {
      await model.dispose();
    }
  });

  test("a checkpoint converted twice gives the same bytes of weights", async () => {
    const [first, second] = [join(folder, "once.pt"), join(folder, "twice.pt")];
    await convert(join(DECODERS, "qwen2"), first);
    await convert(join(DECODERS, "qwen2"), second);
    const [a, b] = [await load(first), await load(second)];
    try {
      expect(a.info.weightHash).toBe(b.info.weightHash);
    } finally {
      await Promise.all([a.dispose(), b.dispose()]);
    }
  });

  test("a tied head is stored once", async () => {
    const archive = join(folder, "tied.pt");
    const metadata = await convert(join(DECODERS, "llama-biased-tied"), archive);
    const elements = Object.entries(metadata.weights)
      .filter(([name]) => name !== "head")
      .reduce((sum, [, { shape }]) => sum + shape.reduce((a, b) => a * b, 1), 0);
    const model = await load(archive);
    try {
      expect(model.info.weightBytes).toBe(elements * 4);
    } finally {
      await model.dispose();
    }
    expect(statSync(archive).size).toBeLessThan(elements * 4 + 100_000);
  });

  test("a failed conversion leaves nothing under the final name nor beside it", async () => {
    const empty = mkdtempSync(join(folder, "empty-"));
    await expect(convert(join(DECODERS, "llama"), join(empty, "no", "such.pt"))).rejects.toMatchObject({
      code: "ERR_CONVERT_WRITE",
    });
    writeFileSync(join(empty, "taken"), "");
    await expect(convert(join(DECODERS, "llama"), join(empty, "taken", "x.pt"))).rejects.toMatchObject({
      code: "ERR_CONVERT_WRITE",
    });
    expect(readdirSync(empty)).toEqual(["taken"]);
  });
});
