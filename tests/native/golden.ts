// SPDX-License-Identifier: Apache-2.0
// Reference runs from ../shared/golden, and how far ours are from them.
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { readSafetensors, readSafetensorsHeader } from "../../src/formats/safetensors.ts";
import { toFloat32, toIntegers } from "../../src/formats/tensor.ts";

export const shared = (path: string) => fileURLToPath(new URL(`../../../shared/${path}`, import.meta.url));

export interface GoldenOutput {
  ids: number[];
  text: string;
  logprobs: number[];
  /** Logit of the first minus the second choice at each step, where the reference recorded it. */
  margins?: number[];
}

export interface GoldenPrompt {
  input: string | { role: string; content: string }[];
  text: string;
  ids: number[];
  outputs: Record<string, GoldenOutput>;
}

export class Golden {
  readonly prompts: GoldenPrompt[];
  readonly #file: string;
  readonly #names: Set<string>;

  constructor(name: string) {
    const base = shared(`golden/${name}/${name}`);
    this.prompts = (JSON.parse(readFileSync(`${base}.json`, "utf8")) as { prompts: GoldenPrompt[] }).prompts;
    this.#file = `${base}.safetensors`;
    this.#names = new Set(readSafetensorsHeader(this.#file).tensors.keys());
  }

  static has(name: string): boolean {
    return existsSync(shared(`golden/${name}/${name}.safetensors`));
  }

  has(tensor: string): boolean {
    return this.#names.has(tensor);
  }

  floats(tensor: string): Float32Array {
    return toFloat32(this.#tensor(tensor));
  }

  integers(tensor: string): number[] {
    return toIntegers(this.#tensor(tensor));
  }

  #tensor(name: string) {
    return readSafetensors(this.#file, { names: [name] }).tensors.get(name)!;
  }
}

/** Largest |a - b|, where it is, and the cosine over all elements. */
export class Deviation {
  worst = 0;
  worstAt = "";
  /** Largest |a - b| / max |b| of its comparison. */
  worstRelative = 0;
  lowestCosine = 1;

  compare(where: string, got: ArrayLike<number>, expected: ArrayLike<number>): void {
    if (got.length !== expected.length)
      throw new Error(`${where}: expected ${expected.length} elements, got ${got.length}`);
    let [dot, aa, bb] = [0, 0, 0];
    let [largest, scale] = [0, 0];
    for (let i = 0; i < got.length; i++) {
      const [a, b] = [got[i]!, expected[i]!];
      const distance = Math.abs(a - b);
      if (!(distance <= this.worst)) {
        this.worst = Number.isNaN(distance) ? Number.POSITIVE_INFINITY : distance;
        this.worstAt = `${where}[${i}]: ${a} against ${b}`;
      }
      largest = Math.max(largest, distance);
      scale = Math.max(scale, Math.abs(b));
      dot += a * b;
      aa += a * a;
      bb += b * b;
    }
    if (scale > 0) this.worstRelative = Math.max(this.worstRelative, largest / scale);
    if (aa > 0 && bb > 0) this.lowestCosine = Math.min(this.lowestCosine, dot / Math.sqrt(aa * bb));
  }

  toString(): string {
    return `max |delta| ${this.worst.toExponential(2)} (${this.worstAt}), relative to the largest ${this.worstRelative.toExponential(2)}, cosine >= ${this.lowestCosine.toFixed(9)}`;
  }
}

/**
 * Index of the first token that differs where it may not, or -1. Where the reference hesitated (margin
 * under 1e-3) another token may end the comparison.
 */
export function firstWrongToken(
  got: ArrayLike<number>,
  expected: GoldenOutput,
): { at: number; compared: number } {
  for (let i = 0; i < expected.ids.length; i++) {
    if (got[i] === expected.ids[i]) continue;
    const hesitated = expected.margins !== undefined && expected.margins[i]! < 1e-3;
    return { at: hesitated ? -1 : i, compared: i };
  }
  return { at: -1, compared: expected.ids.length };
}
