// SPDX-License-Identifier: Apache-2.0
// What a model family has to say to be converted. A new family is one TorchScript source in
// native/architectures, one file here that exports a Family, and its line in index.ts.

import { ModelError } from "../../errors.ts";
import type { ArchiveBuilder } from "./builder.ts";
import type { ConfigReader } from "./config-reader.ts";

/** What the rest of the product needs to know of a model; goes into chatspace.json. */
export interface DecoderShape {
  layers: number;
  hiddenSize: number;
  vocabSize: number;
  contextLength: number;
  heads: number;
  kvHeads: number;
  headDim: number;
  /** Experts of a mixture. */
  experts?: number;
}

export interface Family {
  /** Values of config.json's `model_type`. */
  readonly modelTypes: readonly string[];
  /** Name of the TorchScript source in native/architectures, without its ending. */
  readonly source: string;
  /** Adds modules and attention specs to the builder, from config and weights. */
  plan(config: ConfigReader, build: ArchiveBuilder): DecoderShape;
}

/** Activation name of our operators for a name of config.json. Throws ERR_CONFIG. */
export function activationOf(config: ConfigReader, key: string, fallback?: string): string {
  const name = config.string(key, fallback);
  const known: Record<string, string> = {
    silu: "silu",
    swish: "silu",
    gelu: "gelu",
    gelu_new: "gelu_tanh",
    gelu_fast: "gelu_tanh",
    gelu_pytorch_tanh: "gelu_tanh",
    relu: "relu",
  };
  const activation = Object.hasOwn(known, name) ? known[name] : undefined;
  if (activation === undefined) throw config.bad(key, `one of ${Object.keys(known).join(", ")}`, name);
  return activation;
}

/** Attention heads must divide: throws ERR_CONFIG otherwise. */
export function checkHeads(config: ConfigReader, heads: number, kvHeads: number, key: string): void {
  if (heads % kvHeads !== 0) throw config.bad(key, `a divisor of ${heads} attention heads`, kvHeads);
}

/** The refusal of what no family writes. */
export function unknownFamily(file: string, modelType: unknown, known: readonly string[]): ModelError {
  return new ModelError(
    "ERR_FAMILY_UNKNOWN",
    `${file}: model type ${JSON.stringify(modelType)} is not one that can be converted; known are ${known.join(", ")}`,
    {
      details: { file, modelType, known },
      remedies: [
        "Export it with scripts/py/export_torchscript.py (Python, any Hugging Face model) and load the archive.",
      ],
    },
  );
}
