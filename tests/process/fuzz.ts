// SPDX-License-Identifier: Apache-2.0
// The fuzzing of checkpoints, for its short run (damaged-checkpoints.test.ts) and its long one (tests/slow).

import { spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect } from "vitest";
import { readSafetensors } from "../../src/formats/safetensors.ts";
import { writeTorchSave } from "../../src/formats/torch-save-writer.ts";
import { writeGgufModel } from "../native/gguf-model.ts";

const SCRIPT = fileURLToPath(new URL("./fuzz-checkpoints.mjs", import.meta.url));
const DECODERS = fileURLToPath(new URL("../golden/decoders", import.meta.url));
const TINY = join(DECODERS, "smollm3");

/** The three kinds of source, made below `folder`. */
export function fuzzSources(folder: string): Record<string, string> {
  const torch = join(folder, "torch");
  mkdirSync(torch, { recursive: true });
  copyFileSync(join(TINY, "config.json"), join(torch, "config.json"));
  const { tensors } = readSafetensors(join(TINY, "model.safetensors"));
  writeFileSync(join(torch, "pytorch_model.bin"), writeTorchSave(tensors));
  const gguf = join(folder, "tiny.gguf");
  writeGgufModel("smollm3", "smollm3", gguf, DECODERS);
  const safetensors = join(folder, "safetensors");
  mkdirSync(safetensors);
  for (const name of ["config.json", "model.safetensors"])
    copyFileSync(join(TINY, name), join(safetensors, name));
  return { safetensors, gguf, torch };
}

/** Runs `count` damaged copies and checks how they ended; one that hangs ends at the time-out of them all. */
export function fuzz(kind: string, source: string, count: number, seed: number): void {
  const ran = spawnSync(process.execPath, ["--expose-gc", SCRIPT, source, String(count), String(seed)], {
    encoding: "utf8",
    timeout: 600_000,
    env: { ...process.env, NODE_OPTIONS: "" },
  });
  expect(ran.signal, ran.stderr.slice(-2000)).toBe(null);
  expect(ran.status, ran.stderr.slice(-2000)).toBe(0);
  const told = JSON.parse(ran.stdout) as {
    ends: Record<string, number>;
    converted: number;
    slowest: number;
    grown: number;
    left: string[];
    bytes: number;
  };
  console.log(`${kind}, ${count} damaged copies of ${told.bytes} bytes`, told);
  expect(Object.values(told.ends).reduce((a, b) => a + b)).toBe(count);
  expect(Object.keys(told.ends).filter((end) => !/^(planned|converted|ERR_[A-Z_]+)$/.test(end))).toEqual([]);
  expect(told.left).toEqual([]);
  // Files of a few hundred kilobytes: what a lying size asks for would be gigabytes.
  expect(told.grown).toBeLessThan(300e6);
}
