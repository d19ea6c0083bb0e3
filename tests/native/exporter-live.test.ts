// SPDX-License-Identifier: Apache-2.0
// scripts/py/export_torchscript.py live, on random models of families that the converter does not write: the
// archive loads, steers and captures as Transformers does with forward hooks. Needs a Python with torch and
// transformers (CHATSPACE_TEST_PYTHON); tests/golden/foreign holds exported archives for everyone else.

import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
// @ts-expect-error a plain module of scripts/
import { measureFamily } from "../../scripts/lib/family-parity.mjs";
// @ts-expect-error a plain module of scripts/
import { findPython } from "../../scripts/lib/python.mjs";
import { readSafetensors } from "../../src/formats/safetensors.ts";
import { toFloat32, toIntegers } from "../../src/formats/tensor.ts";
import { planFromHuggingFace } from "../../src/model/convert.ts";
import { SteerModel } from "../../src/model/steer-model.ts";

const script = (name: string) => fileURLToPath(new URL(`../../scripts/py/${name}`, import.meta.url));
const python: string | null = findPython(["torch", "transformers", "safetensors"]);
const folder = mkdtempSync(join(tmpdir(), "chatspace-export-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function run(args: string[]): string {
  const { status, stdout, stderr } = spawnSync(python!, args, {
    encoding: "utf8",
    env: { ...process.env, OMP_NUM_THREADS: "1", HF_HUB_OFFLINE: "1" },
  });
  expect(status, stderr.slice(-2000)).toBe(0);
  return stdout;
}

describe.skipIf(!python)("exported archives (skipped without a Python with torch and transformers)", () => {
  beforeAll(() => {
    run([script("make_decoder_fixtures.py"), folder, "--only", "opt,bloom,falcon"]);
  }, 280_000);

  test.each([
    ["opt", ["--with-past"]],
    ["bloom", []],
    ["falcon", ["--with-past"]],
  ] as [string, string[]][])("%s %j", { timeout: 280_000 }, async (name, flags) => {
    const source = join(folder, name);
    expect(() => planFromHuggingFace(source)).toThrowError(/export_torchscript|known are/);
    const config = JSON.parse(readFileSync(join(source, "config.json"), "utf8"));
    const api = {
      convert: async (from: string, archive: string) => {
        run([script("export_torchscript.py"), from, archive, "--check", ...flags]);
        return { layers: 4, hiddenSize: 32, vocabSize: config.vocab_size as number };
      },
      SteerModel,
      readSafetensors,
      toFloat32,
      toIntegers,
    };
    const found = await measureFamily(api, { folder: source, mid: 2, late: 3 }, join(folder, `${name}.pt`));
    const { logits, hidden, steeredLogits, steeredHidden, greedy } = found;
    console.log(name, { logits, hidden, steeredLogits, steeredHidden }, greedy);
    for (const value of [logits, hidden, steeredLogits, steeredHidden])
      expect(value).toBeLessThanOrEqual(1e-4);
    for (const run of Object.values(greedy) as { of: number; equal: number }[])
      expect(run.equal).toBe(run.of);
  });
});
