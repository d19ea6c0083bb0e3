// SPDX-License-Identifier: Apache-2.0
// Against the `gguf` Python package: every element type bit by bit, and the default model through the
// safetensors that a script without any code of ours writes from its GGUF file.

import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, test } from "vitest";
// @ts-expect-error a plain module of scripts/
import { compareTypes } from "../../scripts/lib/gguf-parity.mjs";
// @ts-expect-error a plain module of scripts/
import { findPython } from "../../scripts/lib/python.mjs";
import { readSafetensors } from "../../src/formats/safetensors.ts";
import { toFloat32 } from "../../src/formats/tensor.ts";
import { cacheFolder } from "../../src/model/cache-folder.ts";
import { convert } from "../../src/model/convert.ts";
import { SteerModel } from "../../src/model/steer-model.ts";
import { loadAddon } from "../../src/native/loader.ts";
import { firstWrongToken, Golden, type GoldenPrompt } from "./golden.ts";

const SCRIPT = fileURLToPath(new URL("../../scripts/py/gguf_to_safetensors.py", import.meta.url));
const GGUF = join(cacheFolder(), "sources/SmolLM2-135M-Instruct.Q4_1.gguf");
const python: string | null = findPython(["numpy", "gguf", "safetensors"]);
if (!python)
  console.warn("gguf: no Python with numpy, gguf and safetensors (CHATSPACE_TEST_PYTHON); its tests skip");

const folder = mkdtempSync(join(tmpdir(), "chatspace-reference-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

interface TypeParity {
  type: string;
  elements: number;
  differing: number;
  worst: number;
}

function greedyResults(model: SteerModel, prompts: readonly GoldenPrompt[]) {
  return model.generate(
    prompts.map(({ ids }) => ({ tokens: ids })),
    { maxTokens: 64, ignoreEos: true },
  );
}

function greedy(
  model: SteerModel,
  prompts: readonly GoldenPrompt[],
  results: readonly { tokens: Int32Array }[],
): void {
  const tokenizer = model.tokenizer!;
  const equal = results.map(({ tokens }, index) => {
    const { text, ids, outputs } = prompts[index]!;
    expect(Array.from(tokenizer.encode(text, { addSpecialTokens: false }))).toEqual(ids);
    const golden = outputs.plain!;
    const { at, compared } = firstWrongToken(tokens, golden);
    expect({ prompt: index, at }).toEqual({ prompt: index, at: -1 });
    if (compared === golden.ids.length)
      expect(tokenizer.decode(tokens, { skipSpecialTokens: false })).toBe(golden.text);
    return compared;
  });
  console.log(`smollm2 through safetensors: ${equal.join(" ")} of 64 tokens equal`);
}

describe.skipIf(!python)("the gguf package", () => {
  test("decodes every element type to the same bits, random scales included", () => {
    const { types } = compareTypes(loadAddon(), { readSafetensors, toFloat32 }, python, 65_536) as {
      types: TypeParity[];
    };
    expect(types.map(({ type }) => type).sort()).toEqual(
      "BF16 F16 F32 IQ4_NL IQ4_XS MXFP4 Q2_K Q3_K Q4_0 Q4_1 Q4_K Q5_0 Q5_1 Q5_K Q6_K Q8_0".split(" "),
    );
    for (const found of types) expect(found).toMatchObject({ elements: 65_536, differing: 0 });
  });
});

describe.skipIf(!python || !existsSync(GGUF) || !Golden.has("smollm2"))(
  "the default model through a reference's safetensors (skipped without Python, the file or the golden)",
  () => {
    test("greedy text, ids and logits are those of the GGUF file and of the reference", {
      timeout: 300_000,
    }, async () => {
      const hub = join(folder, "hub");
      const made = spawnSync(python!, [SCRIPT, GGUF, hub], { encoding: "utf8" });
      expect(made.stderr).toBe("");
      expect(made.status).toBe(0);
      const [fromHub, fromGguf] = [join(folder, "hub.pt"), join(folder, "gguf.pt")];
      const metadata = await convert(hub, fromHub);
      expect(metadata.source.files.length).toBeGreaterThan(1);
      rmSync(hub, { recursive: true });
      await convert(GGUF, fromGguf);
      const { prompts } = new Golden("smollm2");
      const logits: Float32Array[] = [];
      for (const path of [fromHub, fromGguf]) {
        const model = await SteerModel.load(path, { device: "cpu", dtype: "float32", quantize: "none" });
        try {
          logits.push((await model.forward({ tokens: prompts[0]!.ids }, { logits: "all" })).logits);
          // The GGUF file's own greedy text is compared in parity-smollm2.test.ts.
          if (path === fromHub) greedy(model, prompts, await greedyResults(model, prompts));
        } finally {
          await model.dispose();
        }
      }
      expect(Buffer.compare(Buffer.from(logits[0]!.buffer), Buffer.from(logits[1]!.buffer))).toBe(0);
    });
  },
);
