// SPDX-License-Identifier: Apache-2.0
// What the matrices of an archive are stored as: the source's own types, another dtype, or 8- or 4-bit
// blocks. The rules are those of loading (native/archive/weights.cc), so that an archive quantised here
// holds the very bits that quantising at load gives.

import type { NativeConvertPlan, NativeDtype, NativeWeightSource } from "../native/contract.ts";
import { checkOneOf } from "../steering/check.ts";

/** How matrices are to be stored. Vectors (norms, biases) stay as they are in the source. */
export interface StoredForm {
  /** "auto" (default) keeps the source's types. */
  dtype?: NativeDtype | "auto";
  /** "int8" = Q8_0; "int4" = Q4_1, embedding table and head Q8_0; rows that are no whole blocks keep the dtype. */
  quantize?: "none" | "int8" | "int4";
}

const DTYPES = ["auto", "float32", "bfloat16", "float16"] as const;
const QUANTIZE = ["none", "int8", "int4"] as const;
const TYPE_OF: Readonly<Record<NativeDtype, string>> = { float32: "F32", bfloat16: "BF16", float16: "F16" };
const QUANT_BLOCK = 32;

/** Throws TypeError for other words. */
export function checkStoredForm({ dtype = "auto", quantize = "none" }: StoredForm): Required<StoredForm> {
  return {
    dtype: checkOneOf("dtype", dtype, DTYPES),
    quantize: checkOneOf("quantize", quantize, QUANTIZE),
  };
}

/** Writes the form into the plan's weights; returns what loading with dtype "auto" takes then, "" = as before. */
export function storeAs(
  modules: NativeConvertPlan["modules"],
  { dtype, quantize }: Required<StoredForm>,
): NativeDtype | "" {
  if (dtype === "auto" && quantize === "none") return "";
  const before = mostCommonDtype(modules);
  for (const { path, weights } of modules) {
    for (const { name, source } of weights) {
      if (source?.shape.length !== 2 || source.addend !== 0) continue;
      const full = path === "" ? name : `${path}.${name}`;
      const blocks = quantize === "none" ? null : blocksOf(full, source, quantize);
      source.store = blocks ?? (dtype === "auto" ? "" : TYPE_OF[dtype]);
    }
  }
  return dtype === "auto" ? before : dtype;
}

function blocksOf(path: string, source: NativeWeightSource, quantize: "int8" | "int4"): string | null {
  const width = source.shape[source.transpose ? 0 : 1]!;
  if (width % QUANT_BLOCK !== 0) return null;
  // The embedding table and the head decide every token: they keep eight bits.
  const decidesTokens = path === "head" || path.startsWith("embed.");
  return quantize === "int8" || decidesTokens ? "Q8_0" : "Q4_1";
}

// What loading takes for "auto" of the weights as the source has them: the dtype of most elements.
function mostCommonDtype(modules: NativeConvertPlan["modules"]): NativeDtype {
  const elements: Record<NativeDtype, number> = { float32: 0, float16: 0, bfloat16: 0 };
  for (const { weights } of modules) {
    for (const { source } of weights) {
      if (!source || source.shape.length < 2) continue;
      const { type } = source;
      const dtype = type === "F16" ? "float16" : type === "BF16" ? "bfloat16" : "float32";
      elements[dtype] += source.shape.reduce((a, b) => a * b, 1);
    }
  }
  const names = Object.keys(elements) as NativeDtype[];
  return names.reduce((most, name) => (elements[name] > elements[most] ? name : most));
}
