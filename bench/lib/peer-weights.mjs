// SPDX-License-Identifier: Apache-2.0
// What Transformers loads for a model of ours: the same GGUF file or Hugging Face folder.
import { existsSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { cacheFolder } from "../../dist/model/cache-folder.js";
import { MODEL_CATALOG } from "../../dist/model/store.js";

export function peerWeights(model) {
  if (model === "stories260k") {
    const folder = fileURLToPath(new URL("../../../shared/models/llama-stories260K/hf", import.meta.url));
    return existsSync(folder) ? folder : null;
  }
  const origin = MODEL_CATALOG.find((each) => each.name === model)?.origin;
  const file = origin === undefined ? model : join(cacheFolder(), "sources", origin.file);
  return existsSync(file) ? file : null;
}
