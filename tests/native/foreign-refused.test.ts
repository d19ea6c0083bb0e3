// SPDX-License-Identifier: Apache-2.0
// Archives that cannot be steered rightly are refused at load, with the code that says why; files that are
// no archives likewise.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { fixture, open, operation, run } from "./foreign-world.ts";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "refused-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function refusal(path: string): Promise<{ code: string; message: string }> {
  const model = await open(path).catch((error: unknown) => error as { code: string; message: string });
  if ("dispose" in model) {
    await model.dispose();
    throw new Error(`${path} was loaded`);
  }
  expect(model.message).toContain(path);
  return model;
}

function written(name: string, bytes: Uint8Array): string {
  const path = join(folder, name);
  writeFileSync(path, bytes);
  return path;
}

describe("an archive is refused when", () => {
  it.each([
    ["it is frozen: no submodules left", "frozen.pt", "ERR_ARCHIVE_FROZEN", /export_torchscript/],
    ["its layers are there but not called", "inlined.pt", "ERR_ARCHIVE_FROZEN", /inlined or frozen/],
    ["later tokens change earlier logits", "not-causal.pt", "ERR_ARCHIVE_LENGTH", /causal/],
    [
      "its layers pass two streams that are no delta and residual",
      "two-streams.pt",
      "ERR_LAYER_OUTPUT",
      /sum/,
    ],
    ["torch.save wrote it", "torch-save.pt", "ERR_ARCHIVE_FORMAT", /not a TorchScript archive/],
  ])("%s", async (_, name, code, says) => {
    const error = await refusal(fixture(name));
    expect(error.code).toBe(code);
    expect(error.message).toMatch(says);
  });

  it("one bit of its code is wrong", async () => {
    const bytes = Uint8Array.from(readFileSync(fixture("pair.pt")));
    const at = Buffer.from(bytes).indexOf("def forward");
    bytes[at + 4] = (bytes[at + 4] as number) ^ 1;
    const error = await refusal(written("bit.pt", bytes));
    expect(error.code).toBe("ERR_ARCHIVE_DAMAGED");
    expect(error.message).toMatch(/code\/.* do not match their checksum/);
  });
});

describe("a file is refused when", () => {
  const good = readFileSync(fixture("pair.pt"));
  it.each([
    ["it is empty", new Uint8Array(), "ERR_ARCHIVE_FORMAT"],
    ["it is short", Uint8Array.of(0x50, 0x4b, 3, 4), "ERR_ARCHIVE_TRUNCATED"],
    ["it is noise", Uint8Array.from({ length: 5000 }, (_, i) => (i * 7919) % 251), "ERR_ARCHIVE_FORMAT"],
    ["it is half an archive", good.subarray(0, good.length >> 1), "ERR_ARCHIVE_TRUNCATED"],
    ["its end is cut off", good.subarray(0, good.length - 5), "ERR_ARCHIVE_TRUNCATED"],
  ])("%s", async (label, bytes, code) => {
    expect((await refusal(written(`${label}.pt`, bytes))).code).toBe(code);
  });

  it("it is not there", async () => {
    expect((await refusal(join(folder, "missing.pt"))).code).toBe("ERR_FILE_MISSING");
  });
});

describe("a loaded stranger's archive", () => {
  it("keeps the dtype it was traced with, and says so when another is asked for", async () => {
    const error = await open(fixture("llama.pt"), { dtype: "bfloat16" }).catch((reason: unknown) => reason);
    expect(error).toMatchObject({
      code: "ERR_ARCHIVE_PROBE",
      message: expect.stringMatching(/dtype "auto"/),
    });
  });

  it("refuses prompt embeddings, unknown tokens and vectors of another width, and goes on", async () => {
    const model = await open(fixture("llama-past.pt"));
    try {
      expect(model.info.contextLength).toBe(64);
      const embeddings = { embeddingRows: Int32Array.of(0), embeddings: new Float32Array(32) };
      await expect(run(model, embeddings)).rejects.toMatchObject({ code: "ERR_EMBEDDINGS_UNSUPPORTED" });
      const narrow = [operation("layers.0", new Float32Array(5), {})];
      await expect(run(model, { program: narrow })).rejects.toMatchObject({
        code: expect.stringMatching(/^ERR_/),
      });
      await expect(run(model, { tokens: Int32Array.of(97) })).rejects.toMatchObject({
        code: "ERR_TOKEN_RANGE",
      });
      const full = await run(model, { maxTokens: 500 });
      expect([full.finish, full.tokens.length]).toEqual(["context", 64]);
    } finally {
      await model.dispose();
    }
  });
});
