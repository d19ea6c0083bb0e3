// SPDX-License-Identifier: Apache-2.0
// From the embedder's space to the language model's: RMSNorm, Linear, GELU, Linear. Weights as stored,
// sums in float64, results float32.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setImmediate as nextTurn } from "node:timers/promises";
import { DataError } from "../errors.ts";
import { readSafetensors } from "../formats/safetensors.ts";
import { toFloat32 } from "../formats/tensor.ts";
import { gelu } from "./gelu.ts";
import type { CompressionSettings } from "./settings.ts";

interface Linear {
  /** [outputs, inputs] row-major. */
  readonly weight: Float32Array;
  /** [outputs]. */
  readonly bias: Float32Array;
  readonly inputs: number;
  readonly outputs: number;
}

/** The bytes of the files, for a hash of what projected. */
export const PROJECTOR_FILES = ["code_norm_pre.safetensors", "code_projection.safetensors"] as const;

// Rows that go through a matrix together: each weight is loaded once for four rows.
const ROWS = 4;
// Multiplications between two looks at the event loop, some 20 ms.
const SLICE = 20_000_000;

/** A projector as stored. Stateless; safe to share. */
export class Projector {
  /** Width of the embedder. */
  readonly inputs: number;
  /** Hidden size of the language model. */
  readonly outputs: number;
  readonly #norm: Float32Array;
  readonly #eps: number;
  readonly #first: Linear;
  readonly #second: Linear;

  /**
   * Reads code_norm_pre.safetensors and code_projection.safetensors.
   * @throws DataError ERR_MEMORY_CHECKPOINT when shapes do not fit each other or the settings;
   *   ERR_SAFETENSORS, ERR_FILE_UNREADABLE.
   */
  constructor(folder: string, settings: Pick<CompressionSettings, "eps" | "projector">) {
    const [normFile, projectionFile] = PROJECTOR_FILES.map((name) => join(folder, name)) as [string, string];
    this.#norm = floats(normFile, "weight", 1).values;
    this.#first = linear(projectionFile, "0");
    this.#second = linear(projectionFile, "2");
    this.#eps = settings.eps;
    this.inputs = this.#first.inputs;
    this.outputs = this.#second.outputs;
    if (this.#norm.length !== this.inputs)
      throw bad(normFile, `weight [${this.inputs}], as the projection takes`, `[${this.#norm.length}]`);
    if (this.#second.inputs !== this.#first.outputs)
      throw bad(
        projectionFile,
        `2.weight of ${this.#first.outputs} inputs, as 0.weight gives`,
        `${this.#second.inputs}`,
      );
    const shape = [this.inputs, this.#first.outputs, this.outputs];
    if (settings.projector && settings.projector.join() !== shape.join())
      throw bad(projectionFile, `the recorded shape ${settings.projector.join(" -> ")}`, shape.join(" -> "));
  }

  /**
   * @param rows [count, inputs] row-major
   * @returns [count, outputs] row-major. Lets the event loop turn between slices.
   * @throws signal.reason
   */
  async project(rows: Float32Array, signal?: AbortSignal): Promise<Float32Array> {
    const count = rows.length / this.inputs;
    const out = new Float32Array(count * this.outputs);
    const cost = this.#first.weight.length + this.#second.weight.length;
    const slice = Math.max(ROWS, Math.floor(SLICE / cost / ROWS) * ROWS);
    for (let start = 0; start < count; start += slice) {
      if (start > 0) await nextTurn();
      signal?.throwIfAborted();
      const end = Math.min(count, start + slice);
      const normed = rmsNorm(rows.subarray(start * this.inputs, end * this.inputs), this.#norm, this.#eps);
      const inner = apply(this.#first, normed).map(gelu);
      out.set(apply(this.#second, inner), start * this.outputs);
    }
    return out;
  }
}

/** x / sqrt(mean(x^2) + eps) * weight of each row (Zhang and Sennrich 2019), in float64. */
function rmsNorm(rows: Float32Array, weight: Float32Array, eps: number): Float64Array {
  const width = weight.length;
  const out = new Float64Array(rows.length);
  for (let start = 0; start < rows.length; start += width) {
    let squares = 0;
    for (let k = 0; k < width; k++) squares += rows[start + k]! ** 2;
    const scale = 1 / Math.sqrt(squares / width + eps);
    for (let k = 0; k < width; k++) out[start + k] = rows[start + k]! * scale * weight[k]!;
  }
  return out;
}

function apply({ weight, bias, inputs, outputs }: Linear, rows: Float64Array): Float64Array {
  const count = rows.length / inputs;
  const out = new Float64Array(count * outputs);
  for (let row = 0; row < count; row += ROWS) {
    // The last block reads its rows again rather than past the end; what is written twice is equal.
    const at = [0, 1, 2, 3].map((i) => Math.min(row + i, count - 1));
    const [a, b, c, d] = at.map((i) => rows.subarray(i * inputs, (i + 1) * inputs)) as [
      Float64Array,
      Float64Array,
      Float64Array,
      Float64Array,
    ];
    for (let o = 0; o < outputs; o++) {
      const w = weight.subarray(o * inputs, (o + 1) * inputs);
      let [sumA, sumB, sumC, sumD] = [0, 0, 0, 0];
      for (let k = 0; k < inputs; k++) {
        const x = w[k]!;
        sumA += x * a[k]!;
        sumB += x * b[k]!;
        sumC += x * c[k]!;
        sumD += x * d[k]!;
      }
      out[at[0]! * outputs + o] = sumA + bias[o]!;
      out[at[1]! * outputs + o] = sumB + bias[o]!;
      out[at[2]! * outputs + o] = sumC + bias[o]!;
      out[at[3]! * outputs + o] = sumD + bias[o]!;
    }
  }
  return out;
}

function linear(file: string, index: string): Linear {
  const { values: weight, shape } = floats(file, `${index}.weight`, 2);
  const bias = floats(file, `${index}.bias`, 1).values;
  const [outputs, inputs] = shape as [number, number];
  if (bias.length !== outputs) throw bad(file, `${index}.bias [${outputs}]`, `[${bias.length}]`);
  return { weight, bias, inputs, outputs };
}

function floats(
  file: string,
  name: string,
  rank: number,
): { values: Float32Array; shape: readonly number[] } {
  const { tensors } = readSafetensors(file);
  const tensor = tensors.get(name);
  if (!tensor) throw bad(file, `a tensor ${name}`, [...tensors.keys()].join(", ") || "none");
  if (tensor.shape.length !== rank || tensor.shape.includes(0) || !/F/.test(tensor.dtype))
    throw bad(file, `${name} as a float tensor of ${rank} dimensions`, `${tensor.dtype} [${tensor.shape}]`);
  const values = toFloat32(tensor);
  if (!values.every(Number.isFinite)) throw bad(file, `${name} with finite numbers`, "NaN or infinity");
  return { values, shape: tensor.shape };
}

/** The files of a projector, for hashes. */
export function projectorBytes(folder: string): Uint8Array[] {
  return PROJECTOR_FILES.map((name) => readFileSync(join(folder, name)));
}

function bad(file: string, expected: string, got: string): DataError {
  return new DataError("ERR_MEMORY_CHECKPOINT", `${file}: expected ${expected}, got ${got}`, {
    details: { file, expected, got },
    remedies: ["Take projectors/ from the same checkpoint as llm/ and embedder/."],
  });
}
