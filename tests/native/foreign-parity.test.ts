// SPDX-License-Identifier: Apache-2.0
// The same model by two roads: through our converter, and as a stranger's archive that
// scripts/py/export_torchscript.py traced from Hugging Face. And a trained model that must sort.

import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { convert } from "../../src/model/convert.ts";
import type { NativeModel, NativeOperation } from "../../src/native/contract.ts";
import { capture, cosine, fixture, has, open, operation, run, shared, worst } from "./foreign-world.ts";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "foreign-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const EXPORTER = fileURLToPath(new URL("../../scripts/py/export_torchscript.py", import.meta.url));

/** A Python with transformers, for the exports that are too large to be committed. */
const python = [process.env.CHATSPACE_PYTHON, "python3"].find((candidate) => {
  if (!candidate) return false;
  try {
    execFileSync(candidate, ["-c", "import torch, transformers.models.llama"], {
      stdio: "ignore",
      timeout: 60_000,
    });
    return true;
  } catch {
    return false;
  }
});

function exported(source: string, name: string, ...options: string[]): string {
  const output = join(folder, name);
  execFileSync(python as string, ["-W", "ignore", EXPORTER, source, output, "--check", ...options], {
    stdio: "pipe",
    timeout: 280_000,
  });
  return output;
}

/** Deterministic values around zero. */
function wave(length: number, phase: number): Float32Array {
  return Float32Array.from({ length }, (_, i) => Math.sin(phase + i * 2.4) * 0.3);
}

async function compare(ours: NativeModel, theirs: NativeModel, label: string): Promise<void> {
  const { layers, hiddenSize, vocabSize } = ours.info;
  expect(theirs.info).toMatchObject({ kind: "foreign", layers, hiddenSize, vocabSize });
  const tokens = Int32Array.from({ length: 24 }, (_, i) => (i * 37 + 5) % vocabSize);
  const middle = `layers.${layers >> 1}`;
  const vector = wave(hiddenSize, 1);
  const programs: Record<string, NativeOperation[]> = {
    plain: [],
    add: [operation(middle, vector, { scale: 2 })],
    cap: [operation(middle, vector, { op: "cap", min: -0.2, max: 0.25 })],
    ablate: [operation(middle, vector, { op: "ablate", scale: 0 })],
    ordered: [
      operation(middle, vector, { op: "ablate", scale: 0 }),
      operation(middle, wave(hiddenSize, 2), { scale: -1.5 }),
      operation(`layers.${layers - 1}`, vector, { phase: "generation" }),
    ],
  };
  const captures = Array.from({ length: layers }, (_, layer) => capture(`layers.${layer}`));
  for (const [name, steering] of Object.entries(programs)) {
    const request = { tokens, logits: "all" as const, captures, program: steering, maxTokens: 16 };
    const [a, b] = await Promise.all([run(ours, request), run(theirs, request)]);
    const logits = worst(b.logits, a.logits);
    const states = a.captures.map(
      (each, i) => [each.data, b.captures[i]?.data ?? new Float32Array()] as const,
    );
    const hidden = Math.max(...states.map(([x, y]) => worst(y, x)));
    const likeness = Math.min(...states.map(([x, y]) => cosine(x, y)));
    console.log(
      `${label} ${name}: logits max |delta| ${logits.toExponential(1)}, hidden ${hidden.toExponential(1)}, ` +
        `1 - cosine ${(1 - likeness).toExponential(1)}`,
    );
    expect(logits).toBeLessThanOrEqual(1e-4);
    expect(likeness).toBeGreaterThanOrEqual(0.999999);
    expect([...b.tokens]).toEqual([...a.tokens]);
    expect([...b.touched]).toEqual([...a.touched]);
    for (const [i, each] of b.captures.entries())
      expect([...each.positions]).toEqual([...(a.captures[i]?.positions ?? [])]);
    for (const [i, norm] of b.changeNorms.entries()) {
      expect(Math.abs(norm - (a.changeNorms[i] as number)) / (a.changeNorms[i] as number)).toBeLessThan(1e-3);
    }
  }
}

async function both(source: string, archives: string[], label: string): Promise<void> {
  const output = join(folder, `${label}.ours.pt`);
  await convert(source, output, {});
  const ours = await open(output);
  try {
    for (const archive of archives) {
      const theirs = await open(archive);
      try {
        await compare(ours, theirs, `${label}${theirs.info.cached ? " with past" : ""}`);
      } finally {
        await theirs.dispose();
      }
    }
  } finally {
    await ours.dispose();
  }
}

describe("a traced Hugging Face Llama equals the converted one", () => {
  it("small, from committed archives", () =>
    both(fixture("llama"), [fixture("llama.pt"), fixture("llama-past.pt")], "llama-32"));

  for (const [label, source] of [
    ["decoders-llama", shared("golden/decoders/llama")],
    ["stories260k", shared("models/llama-stories260K/hf")],
  ] as const) {
    it.skipIf(!python || !has(source))(
      `${label}, exported now (needs Python with transformers and the shared models)`,
      () =>
        both(
          source,
          [exported(source, `${label}.pt`), exported(source, `${label}-past.pt`, "--with-past")],
          label,
        ),
      600_000,
    );
  }
});

describe("gpt2-nano-sort sorts all 729 inputs of six digits", () => {
  const source = shared("models/gpt2-nano-sort/hf");
  const inputs = Array.from({ length: 729 }, (_, n) =>
    Array.from({ length: 6 }, (_, place) => Math.floor(n / 3 ** place) % 3),
  );

  async function sorted(path: string): Promise<number> {
    const model = await open(path);
    try {
      const results = await Promise.all(
        inputs.map((digits) => run(model, { tokens: Int32Array.from(digits), maxTokens: 6 })),
      );
      return results.filter((result, n) => {
        const expected = [...(inputs[n] as number[])].sort();
        return result.finish === "length" && [...result.tokens].join() === expected.join();
      }).length;
    } finally {
      await model.dispose();
    }
  }

  it.skipIf(!has(source))("through our converter", async () => {
    const output = join(folder, "sort.ours.pt");
    await convert(source, output, {});
    expect(await sorted(output)).toBe(729);
  });

  it.each(["sort-bf16.pt", "sort-bf16-past.pt"])(
    "as a stranger's bfloat16 archive, %s",
    async (name) => {
      expect(await sorted(fixture(name))).toBe(729);
    },
    180_000,
  );

  it.skipIf(!python || !has(source))(
    "as a stranger's float32 archive, exported now",
    async () => {
      expect(await sorted(exported(source, "sort.pt"))).toBe(729);
      expect(await sorted(exported(source, "sort-past.pt", "--with-past"))).toBe(729);
    },
    600_000,
  );
});
