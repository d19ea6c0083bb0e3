// SPDX-License-Identifier: Apache-2.0
// What a family writes its plan with. Weights are asked for by name and shape; what is absent or of
// another shape is collected and reported all at once.

import { ModelError } from "../../errors.ts";
import type { NativeConvertPlan, NativeModulePlan, NativeWeightSource } from "../../native/contract.ts";
import type { ConfigReader } from "./config-reader.ts";
import type { Rope } from "./rope.ts";

/** A weight of a checkpoint, by its Hugging Face name. */
export interface CheckpointWeight {
  readonly file: string;
  readonly offset: number;
  readonly bytes: number;
  /** F32, F16, BF16 or a GGUF block type. */
  readonly type: string;
  readonly shape: readonly number[];
  /** > 0: rows are in llama.cpp's interleaved rope order. */
  readonly ropeHeads?: number;
  /** Stored [out, in] although the family's checkpoints store [in, out] (GPT-2 in GGUF files). */
  readonly turned?: boolean;
  /** Gemma's 1 + w is already added (GGUF files). */
  readonly added?: boolean;
}

/** What native/kernels/dequant.cc reads. */
const READABLE_TYPES: readonly string[] =
  "F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS MXFP4".split(" ");

export type CheckpointWeights = ReadonlyMap<string, CheckpointWeight>;

export interface WeightOptions {
  /** Stored transposed in the checkpoint; `shape` is the one wanted. */
  transpose?: boolean;
  /** [first, count] of the rows of a fused matrix; `shape` is that of the rows. `of` = rows in all. */
  rows?: { first: number; of: number };
  addend?: number;
}

type WeightPlan = NativeModulePlan["weights"][number];
type AttributePlan = NativeModulePlan["attributes"][number];

export interface AttentionShape {
  heads: number;
  kvHeads: number;
  headDim: number;
  /** Leading dimensions that rotate; 0 = none. */
  rotaryDim: number;
  /** Index that rope() gave, -1 = none. */
  rope: number;
  scale: number;
  softcap?: number;
  /** 0 = all positions. */
  window?: number;
}

export class ArchiveBuilder {
  readonly modules: NativeModulePlan[] = [];
  private readonly weights: CheckpointWeights;
  private readonly cache: string[] = ["chatspace-cache 1"];
  private readonly ropes: string[] = [];
  private readonly layerLines: string[] = [];
  private readonly missing: string[] = [];
  private readonly misshapen: string[] = [];
  private readonly unreadable: string[] = [];

  constructor(weights: CheckpointWeights) {
    this.weights = weights;
  }

  /**
   * A count of config.json (layers, experts) that the plan repeats its work for. Each has weights of its own,
   * so a count far above their number is a lie, refused before it takes memory. Throws ERR_CONFIG.
   */
  count(config: ConfigReader, key: string, value: number): number {
    const most = Math.max(1024, this.weights.size);
    if (value <= most) return value;
    throw config.bad(key, `at most ${most} for ${this.weights.size} weights`, value);
  }

  /** True when the checkpoint has a weight of this name. */
  has(name: string): boolean {
    return this.find(name) !== undefined;
  }

  /** A weight that has to be there. */
  weight(
    name: string,
    checkpointName: string,
    shape: readonly number[],
    options: WeightOptions = {},
  ): WeightPlan {
    return { name, optional: false, source: this.source(checkpointName, shape, options) };
  }

  /** An attribute of type Optional[Tensor]; `checkpointName` null = None. */
  optional(
    name: string,
    checkpointName: string | null,
    shape: readonly number[],
    options: WeightOptions = {},
  ): WeightPlan {
    const source = checkpointName === null ? null : this.source(checkpointName, shape, options);
    return { name, optional: true, source };
  }

  /** Adds a module instance. Children before parents. Integers that are floats to the source: use float(). */
  module(
    path: string,
    kind: string,
    attributes: Record<string, number | string | boolean | { float: number }>,
    weights: WeightPlan[],
  ): void {
    const plans = Object.entries(attributes).map(([name, value]): AttributePlan => {
      if (typeof value === "object") return { name, type: "float", value: value.float };
      const type = typeof value === "number" ? "int" : typeof value === "boolean" ? "bool" : "str";
      return { name, type, value };
    });
    this.modules.push({ path, kind, attributes: plans, weights });
  }

  /** Adds a rope table to the cache's spec; equal tables are one. Returns its index. */
  rope(rope: Rope): number {
    const numbers = [rope.attentionFactor, rope.inverseFrequencies.length, ...rope.inverseFrequencies];
    const line = `rope ${numbers.map(number).join(" ")}`;
    const known = this.ropes.indexOf(line);
    return known >= 0 ? known : this.ropes.push(line) - 1;
  }

  /** Adds the attention of the next layer to the cache's spec. Returns its index. */
  attention(shape: AttentionShape): number {
    const { heads, kvHeads, headDim, rotaryDim, rope, scale, softcap = 0, window = 0 } = shape;
    const fields = [heads, kvHeads, headDim, rotaryDim, 0, rope, scale, softcap, window];
    return this.layerLines.push(`layer ${fields.map(number).join(" ")}`) - 1;
  }

  /** Modules and cache spec. Throws ERR_WEIGHTS_MISSING, ERR_WEIGHT_TYPE, ERR_WEIGHTS_SHAPE. */
  finish(file: string): Pick<NativeConvertPlan, "modules" | "cache"> {
    if (this.missing.length > 0) {
      throw new ModelError(
        "ERR_WEIGHTS_MISSING",
        `${file}: ${this.missing.length} weight(s) are missing: ${this.missing.join(", ")}`,
        {
          details: { file, missing: this.missing },
          remedies: ["Get all shards of the checkpoint, and the config.json that belongs to them."],
        },
      );
    }
    if (this.unreadable.length > 0) {
      throw new ModelError(
        "ERR_WEIGHT_TYPE",
        `${file}: expected weights of ${READABLE_TYPES.join(", ")}; got ${this.unreadable.join(", ")}`,
        {
          details: { file, unreadable: this.unreadable, readable: READABLE_TYPES },
          remedies: [
            "Take the model's float weights, or a GGUF file of another type (Q8_0, Q4_K, ...).",
            "To make a small archive of float weights: chatspace-steer convert ... --quantize int8.",
          ],
        },
      );
    }
    if (this.misshapen.length > 0) {
      throw new ModelError("ERR_WEIGHTS_SHAPE", `${file}: ${this.misshapen.join("; ")}`, {
        details: { file, misshapen: this.misshapen },
        remedies: ["Use the config.json that belongs to these weights."],
      });
    }
    return {
      modules: this.modules,
      cache: `${[...this.cache, ...this.ropes, ...this.layerLines].join("\n")}\n`,
    };
  }

  // Checkpoints of a bare model leave out the prefix of the model inside the language model.
  private find(name: string): CheckpointWeight | undefined {
    return (
      this.weights.get(name) ??
      this.weights.get(name.replace(/^(model|transformer|gpt_neox)\./, "")) ??
      this.weights.get(`language_model.${name}`)
    );
  }

  private source(name: string, shape: readonly number[], options: WeightOptions): NativeWeightSource | null {
    const found = this.find(name);
    if (!found) {
      this.missing.push(name);
      return null;
    }
    if (!READABLE_TYPES.includes(found.type)) this.unreadable.push(`${name} ${found.type}`);
    const transpose = (options.transpose ?? false) && !found.turned && shape.length === 2;
    const whole = options.rows ? [options.rows.of, ...shape.slice(1)] : [...shape];
    const stored = transpose ? [...whole].reverse() : whole;
    if (found.shape.join() !== stored.join())
      this.misshapen.push(`${name}: expected [${stored.join(", ")}], got [${found.shape.join(", ")}]`);
    return {
      file: found.file,
      offset: found.offset,
      bytes: found.bytes,
      type: found.type,
      shape: [...found.shape],
      transpose,
      ropeHeads: found.ropeHeads ?? 0,
      rowStart: options.rows?.first ?? 0,
      rows: options.rows ? shape[0]! : -1,
      addend: found.added ? 0 : (options.addend ?? 0),
      store: "",
    };
  }
}

/** A float attribute, also when its value is a whole number. */
export function float(value: number): { float: number } {
  return { float: value };
}

// %.9g, enough for every float32.
function number(value: number): string {
  return Number.isInteger(value) ? String(value) : value.toPrecision(9);
}
