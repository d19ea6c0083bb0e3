// SPDX-License-Identifier: Apache-2.0
// Files that are no model, or no longer one: a typed error each, never a crash of the process.
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, expect, test } from "vitest";
import { ModelError, SteerError } from "../../src/errors.ts";
import { float32Tensor } from "../../src/formats/tensor.ts";
import { writeTorchSave } from "../../src/formats/torch-save-writer.ts";
import { SteerModel } from "../../src/model/steer-model.ts";

const folder = mkdtempSync(join(tmpdir(), "chatspace-bad-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const good = readFileSync(fileURLToPath(new URL("../../models/stories260k.pt", import.meta.url)));

/** Loads a file of these bytes; what it is refused with, or null when it loads. */
async function refusal(name: string, bytes: Uint8Array): Promise<Error | null> {
  const path = join(folder, name);
  writeFileSync(path, bytes);
  try {
    const model = await SteerModel.load(path, { device: "cpu", threads: 1, cacheBytes: 1 << 20 });
    await model.dispose();
    return null;
  } catch (error) {
    return error as Error;
  }
}

test.each([
  ["empty.pt", new Uint8Array(0), "ERR_ARCHIVE_FORMAT"],
  ["text.pt", new TextEncoder().encode("not an archive at all\n".repeat(50)), "ERR_ARCHIVE_FORMAT"],
  ["half.pt", good.subarray(0, good.length >> 1), "ERR_ARCHIVE_TRUNCATED"],
  ["almost.pt", good.subarray(0, good.length - 10), "ERR_ARCHIVE_TRUNCATED"],
])("%s", async (name, bytes, code) => {
  const error = await refusal(name, bytes);
  expect(error).toBeInstanceOf(ModelError);
  expect((error as SteerError).code).toBe(code);
  expect(error!.message).toContain(name);
  expect((error as SteerError).remedies.length).toBeGreaterThan(0);
});

test("weights saved by torch.save are no model", async () => {
  const error = await refusal(
    "weights.pt",
    writeTorchSave(new Map([["w", float32Tensor(new Float32Array(4))]])),
  );
  expect(error).toBeInstanceOf(ModelError);
  expect((error as SteerError).code).toMatch(/^ERR_ARCHIVE_/);
});

test("a folder that is no checkpoint", async () => {
  const path = join(folder, "folder.pt");
  mkdirSync(path);
  await expect(SteerModel.load(path)).rejects.toBeInstanceOf(SteerError);
});

test("cut at any length, or with a byte changed anywhere: refused or loaded, the process lives", async () => {
  const codes = new Map<string, number>();
  const count = (error: Error | null) => {
    // Only errors of ours may come out.
    if (error !== null) expect(error).toBeInstanceOf(SteerError);
    const code = error === null ? "loaded" : (error as SteerError).code;
    codes.set(code, (codes.get(code) ?? 0) + 1);
  };
  // A fixed linear congruence, so that a failure can be run again.
  let state = 12345;
  const below = (n: number) => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return state % n;
  };
  for (let i = 0; i < 30; i++) count(await refusal("cut.pt", good.subarray(0, below(good.length))));
  for (let i = 0; i < 60; i++) {
    const bytes = Uint8Array.from(good);
    // Half of them near the end, where the directory and the small records are.
    const at = i % 2 ? below(bytes.length) : bytes.length - 1 - below(60_000);
    bytes[at] = bytes[at]! ^ (1 << below(8));
    count(await refusal("changed.pt", bytes));
  }
  console.log(`damaged archives: ${[...codes].map(([code, n]) => `${n} ${code}`).join(", ")}`);
});
