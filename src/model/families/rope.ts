// SPDX-License-Identifier: Apache-2.0
// Inverse frequencies of the rotary embedding, computed once when a model is converted, step by step in
// float32 as Hugging Face Transformers does (modeling_rope_utils), so that angles agree to the last bit
// where the two pow functions do.

import { ModelError } from "../../errors.ts";
import type { ConfigReader } from "./config-reader.ts";

const f32 = Math.fround;

export interface Rope {
  /** Multiplies cos and sin. */
  readonly attentionFactor: number;
  /** [rotary dimensions / 2] */
  readonly inverseFrequencies: Float32Array;
  /** Positions beyond which these frequencies no longer hold, when that is less than the model's own. */
  readonly maxPositions?: number;
}

export interface RopeShape {
  headDim: number;
  /** Positions the model was made for. */
  maxPositions: number;
  /** rope_theta when the config does not say. */
  defaultTheta?: number;
  /** Key of `rope_parameters` when each layer type has its own. */
  layerType?: string;
  /** Part of the head that rotates, when the family fixes it; otherwise partial_rotary_factor or all. */
  partial?: number;
}

const WIDEST_HEAD = 1 << 16;

/** Both spellings are read: rope_parameters { rope_theta, rope_type, ... } and rope_theta + rope_scaling. */
export function ropeOf(config: ConfigReader, shape: RopeShape): Rope {
  // A table is made of it: what no head has is a lie, refused before it takes memory.
  if (!(shape.headDim <= WIDEST_HEAD)) throw config.bad("head_dim", `at most ${WIDEST_HEAD}`, shape.headDim);
  const outer = config.object("rope_parameters");
  const parameters = (shape.layerType && outer?.object(shape.layerType)) || outer;
  // Gemma 3's old spelling: its windows have a base of their own and no scaling.
  const isLocal = shape.layerType === "sliding_attention" && !parameters;
  if (isLocal) {
    const theta = config.float("rope_local_base_freq", 10000);
    return { attentionFactor: 1, inverseFrequencies: inverse(powers(theta, shape.headDim)) };
  }
  const scaling = parameters ?? config.object("rope_scaling");
  const theta =
    parameters?.float("rope_theta", config.float("rope_theta", shape.defaultTheta ?? 10000)) ??
    config.float("rope_theta", shape.defaultTheta ?? 10000);
  const partial =
    shape.partial ??
    parameters?.float("partial_rotary_factor", config.float("partial_rotary_factor", 1)) ??
    config.float("partial_rotary_factor", 1);
  const dimensions = Math.trunc(shape.headDim * partial);
  const type = scaling?.string("rope_type", scaling.string("type", "default")) ?? "default";
  const plain = inverse(powers(theta, dimensions));
  switch (type) {
    case "default":
      return { attentionFactor: 1, inverseFrequencies: plain };
    case "linear": {
      const factor = scaling!.float("factor");
      return { attentionFactor: 1, inverseFrequencies: plain.map((value) => value / factor) };
    }
    case "dynamic":
      // Up to the trained length the scaling does nothing; beyond it the base would change per step.
      return { attentionFactor: 1, inverseFrequencies: plain, maxPositions: shape.maxPositions };
    case "llama3":
      return { attentionFactor: 1, inverseFrequencies: llama3(scaling!, plain, shape.maxPositions) };
    case "factors": {
      // llama.cpp stores Llama 3's scaling as one divisor per frequency.
      const factors = scaling!.floats("factors", dimensions / 2);
      return { attentionFactor: 1, inverseFrequencies: plain.map((value, i) => value / factors[i]!) };
    }
    case "yarn":
      return yarn(scaling!, theta, dimensions, shape.maxPositions);
    case "longrope":
    case "su":
      return longrope(config, scaling!, theta, dimensions, shape.maxPositions);
    default:
      throw new ModelError(
        "ERR_ROPE_UNKNOWN",
        `${config.file}: rope scaling "${type}" is not known; known are default, linear, dynamic, llama3, yarn, longrope`,
        {
          details: { file: config.file, type },
          remedies: ["Export the model with scripts/py/export_torchscript.py instead."],
        },
      );
  }
}

// base ** (arange(0, n, 2) / n); an odd n (a quarter of a head of 12) rotates n + 1 dimensions, as in the reference.
function powers(base: number, dimensions: number): Float32Array {
  return Float32Array.from(
    { length: Math.ceil(dimensions / 2) },
    (_, i) => base ** f32((2 * i) / dimensions),
  );
}

function inverse(values: Float32Array): Float32Array {
  return values.map((value) => 1 / value);
}

function llama3(scaling: ConfigReader, plain: Float32Array, maxPositions: number): Float32Array {
  const factor = scaling.float("factor");
  const low = scaling.float("low_freq_factor");
  const high = scaling.float("high_freq_factor");
  const trained = scaling.float("original_max_position_embeddings", maxPositions);
  return plain.map((frequency) => {
    const wavelength = f32(f32(2 * Math.PI) / frequency);
    if (wavelength > trained / low) return frequency / factor;
    if (wavelength < trained / high) return frequency;
    const smooth = f32(f32(f32(trained / wavelength) - low) / (high - low));
    return f32(f32(f32(1 - smooth) * frequency) / factor) + f32(smooth * frequency);
  });
}

function yarn(scaling: ConfigReader, theta: number, dimensions: number, maxPositions: number): Rope {
  const trained = scaling.float("original_max_position_embeddings", maxPositions);
  const factor = scaling.has("factor") ? scaling.float("factor") : maxPositions / trained;
  const magnitude = (scale: number, weight: number) => (scale <= 1 ? 1 : 0.1 * weight * Math.log(scale) + 1);
  const mscale = scaling.float("mscale", 0);
  const mscaleAll = scaling.float("mscale_all_dim", 0);
  const attentionFactor = scaling.has("attention_factor")
    ? scaling.float("attention_factor")
    : mscale && mscaleAll
      ? magnitude(factor, mscale) / magnitude(factor, mscaleAll)
      : magnitude(factor, 1);
  const dimensionOf = (rotations: number) =>
    (dimensions * Math.log(trained / (rotations * 2 * Math.PI))) / (2 * Math.log(theta));
  let low = dimensionOf(scaling.float("beta_fast", 0) || 32);
  let high = dimensionOf(scaling.float("beta_slow", 0) || 1);
  if (scaling.bool("truncate", true)) {
    low = Math.floor(low);
    high = Math.ceil(high);
  }
  low = Math.max(low, 0);
  high = Math.min(high, dimensions - 1);
  if (low === high) high += 0.001;
  const inverseFrequencies = powers(theta, dimensions).map((power, i) => {
    const ramp = Math.min(1, Math.max(0, f32(f32(i - low) / f32(high - low))));
    const extrapolated = f32(1 - ramp);
    const interpolated = f32(1 / f32(factor * power));
    return f32(interpolated * f32(1 - extrapolated)) + f32(f32(1 / power) * extrapolated);
  });
  return { attentionFactor, inverseFrequencies };
}

// The reference switches tables when a sequence grows past the trained length, and so would change what
// is cached already. The short table is exact up to that length, so the model is held to it.
function longrope(
  config: ConfigReader,
  scaling: ConfigReader,
  theta: number,
  dimensions: number,
  maxPositions: number,
): Rope {
  const trained = scaling.float(
    "original_max_position_embeddings",
    config.float("original_max_position_embeddings", maxPositions),
  );
  const factor = scaling.has("factor") ? scaling.float("factor") : maxPositions / trained;
  const attentionFactor = scaling.has("attention_factor")
    ? scaling.float("attention_factor")
    : factor <= 1
      ? 1
      : Math.sqrt(1 + Math.log(factor) / Math.log(trained));
  const short = scaling.floats("short_factor", dimensions / 2);
  const inverseFrequencies = powers(theta, dimensions).map((power, i) => 1 / f32(f32(short[i]!) * power));
  return { attentionFactor, inverseFrequencies, maxPositions: Math.min(trained, maxPositions) };
}
