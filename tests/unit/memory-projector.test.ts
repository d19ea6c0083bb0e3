// SPDX-License-Identifier: Apache-2.0
// The projector's arithmetic against values of CPython's math and a plain loop, and projectors that do not fit.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { writeSafetensors } from "../../src/formats/safetensors.ts";
import { type FormatTensor, float32Tensor, fromFloat32 } from "../../src/formats/tensor.ts";
import { erf, gelu } from "../../src/memory/gelu.ts";
import { Projector } from "../../src/memory/projector.ts";

const scratch = mkdtempSync(join(tmpdir(), "projector-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));
const settings = { eps: 1e-6, projector: null };

function* random(seed: number): Generator<number> {
  let state = seed;
  for (;;) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    yield state / 2 ** 31 - 1;
  }
}

function floats(count: number, seed: number): Float32Array {
  const numbers = random(seed);
  return Float32Array.from({ length: count }, () => numbers.next().value as number);
}

interface Weights {
  norm: FormatTensor;
  projection: Record<string, FormatTensor>;
}

function weights(inputs: number, inner: number, outputs: number): Weights {
  return {
    norm: float32Tensor(floats(inputs, 1)),
    projection: {
      "0.weight": float32Tensor(floats(inner * inputs, 2), [inner, inputs]),
      "0.bias": float32Tensor(floats(inner, 3)),
      "2.weight": float32Tensor(floats(outputs * inner, 4), [outputs, inner]),
      "2.bias": float32Tensor(floats(outputs, 5)),
    },
  };
}

function folderOf(name: string, { norm, projection }: Weights): string {
  const folder = join(scratch, name);
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "code_norm_pre.safetensors"), writeSafetensors({ weight: norm }));
  writeFileSync(join(folder, "code_projection.safetensors"), writeSafetensors(projection));
  return folder;
}

describe("GELU", () => {
  test.each([
    [0, 0],
    [1e-10, 1.1283791670955126e-10],
    [0.1, 0.1124629160182849],
    [0.5, 0.5204998778130465],
    [1, 0.8427007929497149],
    [2, 0.9953222650189527],
    [3, 0.9999779095030014],
    [4, 0.9999999845827421],
    [5, 0.9999999999984626],
    [-0.7, -0.6778011938374184],
    [40, 1],
    [Number.NEGATIVE_INFINITY, -1],
  ])("erf(%d)", (x, expected) => {
    expect(Math.abs(erf(x) - expected)).toBeLessThanOrEqual(Math.abs(expected) * 1e-15);
  });

  test("NaN stays NaN, large values are themselves or zero", () => {
    expect(gelu(Number.NaN)).toBeNaN();
    expect(gelu(50)).toBe(50);
    expect(Math.abs(gelu(-50))).toBe(0);
    expect(gelu(1)).toBeCloseTo(0.8413447460685429, 15);
  });
});

describe("projector", () => {
  test.each([1, 3, 4, 5, 9])("%d rows are what a plain loop gives", async (count) => {
    const [inputs, inner, outputs] = [6, 11, 7];
    const made = weights(inputs, inner, outputs);
    const projector = new Projector(folderOf("plain", made), settings);
    const rows = floats(count * inputs, 9);
    const got = await projector.project(rows);
    const [norm, w0, b0, w2, b2] = [1, 2, 3, 4, 5].map((seed, i) =>
      floats([inputs, inner * inputs, inner, outputs * inner, outputs][i]!, seed),
    ) as [Float32Array, Float32Array, Float32Array, Float32Array, Float32Array];
    let worst = 0;
    for (let r = 0; r < count; r++) {
      const x = [...rows.subarray(r * inputs, (r + 1) * inputs)];
      const scale = 1 / Math.sqrt(x.reduce((sum, v) => sum + v * v, 0) / inputs + 1e-6);
      const n = x.map((v, k) => v * scale * norm[k]!);
      const h = [...b0].map((b, o) => gelu(n.reduce((sum, v, k) => sum + v * w0[o * inputs + k]!, 0) + b));
      [...b2].forEach((b, o) => {
        const y = h.reduce((sum, v, k) => sum + v * w2[o * inner + k]!, 0) + b;
        worst = Math.max(worst, Math.abs(got[r * outputs + o]! - y));
      });
    }
    console.info(`${count} rows: worst deviation ${worst.toExponential(2)}`);
    expect(worst).toBeLessThan(1e-6);
  });

  test("no rows give no rows; many rows are cut into slices and stay the same", async () => {
    const projector = new Projector(folderOf("large", weights(64, 640, 640)), settings);
    expect(await projector.project(new Float32Array(0))).toHaveLength(0);
    const rows = floats(200 * 64, 10);
    const whole = await projector.project(rows);
    expect(whole.slice(-640)).toEqual(await projector.project(rows.slice(-64)));
    const reason = new Error("stop");
    await expect(projector.project(rows, AbortSignal.abort(reason))).rejects.toBe(reason);
  });

  test("half-precision weights are read as the numbers they are", async () => {
    const made = weights(4, 5, 6);
    const halved = Object.entries(made.projection).map(([name, { shape, data }]) => {
      const values = new Float32Array(data.buffer, data.byteOffset, data.byteLength / 4);
      return [name, fromFloat32(values, "BF16", shape)] as const;
    });
    const projector = new Projector(
      folderOf("half", { norm: made.norm, projection: Object.fromEntries(halved) }),
      settings,
    );
    const rows = floats(8, 11);
    const full = await new Projector(folderOf("full", made), settings).project(rows);
    const difference = (await projector.project(rows)).map((x, i) => Math.abs(x - full[i]!));
    expect(Math.max(...difference)).toBeLessThan(0.1);
    expect(Math.max(...difference)).toBeGreaterThan(0);
  });

  test.each<[string, (made: Weights) => void, RegExp]>([
    ["a tensor is absent", ({ projection }) => delete projection["2.bias"], /a tensor 2\.bias, got 0\.bias/],
    [
      "a norm of another width",
      (made) => Object.assign(made, { norm: float32Tensor(floats(3, 1)) }),
      /\[4\].*got \[3\]/,
    ],
    [
      "matrices that do not follow each other",
      ({ projection }) => Object.assign(projection, { "2.weight": float32Tensor(floats(24, 4), [6, 4]) }),
      /2\.weight of 5 inputs, as 0\.weight gives, got 4/,
    ],
    [
      "a vector for a matrix",
      ({ projection }) => Object.assign(projection, { "0.weight": float32Tensor(floats(20, 2)) }),
      /of 2 dimensions, got F32 \[20\]/,
    ],
    [
      "NaN",
      ({ projection }) =>
        Object.assign(projection, { "0.bias": float32Tensor(new Float32Array(5).fill(Number.NaN)) }),
      /finite numbers, got NaN/,
    ],
  ])("%s: refused", (name, spoil, message) => {
    const made = weights(4, 5, 6);
    spoil(made);
    const folder = folderOf(name, made);
    expect(() => new Projector(folder, settings)).toThrowError(message);
    expect(() => new Projector(folder, settings)).toThrowError(
      expect.objectContaining({ code: "ERR_MEMORY_CHECKPOINT" }),
    );
  });
});
