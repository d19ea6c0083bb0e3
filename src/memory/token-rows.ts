// SPDX-License-Identifier: Apache-2.0
// The language model's embeddings of ordinary tokens. Read row by row from its safetensors where they are
// used as stored: gigabytes of a model need not be loaded to look up a few rows. Else asked of the model.

import { existsSync, statSync } from "node:fs";
import { join } from "node:path";
import { ModelError } from "../errors.ts";
import { openSource } from "../formats/byte-source.ts";
import { DTYPE_BYTES, makeTensor, type TensorDtype, toFloat32 } from "../formats/tensor.ts";
import { planFromHuggingFace } from "../model/convert.ts";
import type { LoadOptions } from "../model/load-options.ts";
import { SteerModel } from "../model/steer-model.ts";
import { checkTokenIds } from "../steering/check.ts";
import { modelPath } from "./checkpoint.ts";

/** Where the embeddings of tokens come from. */
export interface TokenRows {
  readonly hiddenSize: number;
  /** [tokens, hiddenSize] row-major. @throws RangeError ERR_TOKEN_RANGE */
  rows(tokens: Int32Array, signal?: AbortSignal): Promise<Float32Array>;
  dispose(): Promise<void>;
}

// Families whose prompt embeddings stand for the stored row (what scales it or adds positions comes after).
const AS_STORED: readonly string[] = ["llama", "olmo2", "moe", "gpt_neox", "granite", "gpt2"];
// Of those, the ones whose site "embed" is read after that.
const CHANGED_AT_SITE: readonly string[] = ["granite", "gpt2"];

/** From the folder's safetensors if they hold the rows as the model uses them, else from the model itself. */
export async function openTokenRows(folder: string, load: LoadOptions): Promise<TokenRows> {
  const stored = storedTokenRows(folder);
  if (stored) return stored;
  const model = await SteerModel.load(modelPath(folder), load);
  if (!CHANGED_AT_SITE.includes(model.info.family)) return capturedTokenRows(model);
  await model.dispose();
  throw new ModelError(
    "ERR_MEMORY_CHECKPOINT",
    `${folder}: expected Hugging Face files, as a ${model.info.family} archive does not give its rows, got ${modelPath(folder)}`,
    {
      details: { path: folder, family: model.info.family },
      remedies: ["Put the Hugging Face folder into llm/."],
    },
  );
}

/** null where the folder holds an archive, or a model that does not use its rows as stored. */
export function storedTokenRows(folder: string): TokenRows | null {
  if (!statSync(folder).isDirectory() || !existsSync(join(folder, "config.json"))) return null;
  if (modelPath(folder) !== folder) return null;
  const { plan, metadata } = planFromHuggingFace(folder);
  const embed = plan.modules.find(({ path }) => path === "embed");
  const source = embed?.weights.find(({ name }) => name === "weight")?.source;
  if (!source || !AS_STORED.includes(metadata.family)) return null;
  if (!Object.hasOwn(DTYPE_BYTES, source.type) || source.addend !== 0 || source.rows >= 0) return null;
  const [vocab, hiddenSize] = source.shape as [number, number];
  const dtype = source.type as TensorDtype;
  const rowBytes = hiddenSize * DTYPE_BYTES[dtype];
  return {
    hiddenSize,
    async rows(tokens) {
      const ids = checkTokenIds("tokens", tokens, vocab);
      const out = new Float32Array(ids.length * hiddenSize);
      const read = new Map<number, Float32Array>();
      const file = openSource(source.file);
      try {
        ids.forEach((id, at) => {
          let row = read.get(id);
          if (!row) {
            const bytes = file.read(source.offset + id * rowBytes, rowBytes);
            row = toFloat32(makeTensor(dtype, [hiddenSize], bytes));
            read.set(id, row);
          }
          out.set(row, at * hiddenSize);
        });
      } finally {
        file.close();
      }
      return out;
    },
    dispose: () => Promise.resolve(),
  };
}

/** Of a loaded model, read at its site "embed". Owns the model. */
export function capturedTokenRows(model: SteerModel): TokenRows {
  return {
    hiddenSize: model.info.hiddenSize,
    async rows(tokens, signal) {
      const capture = { sites: ["embed"], phase: "prompt" as const };
      const options = { logits: "none" as const, capture, ...(signal ? { signal } : {}) };
      const { captures } = await model.forward({ tokens }, options);
      return captures.embed!.data;
    },
    dispose: () => model.dispose(),
  };
}
