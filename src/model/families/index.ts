// SPDX-License-Identifier: Apache-2.0
// The families that can be converted, by config.json's model_type.

import { type Family, unknownFamily } from "./family.ts";
import { gemma, gemma1 } from "./gemma.ts";
import { gptNeox } from "./gpt-neox.ts";
import { gpt2 } from "./gpt2.ts";
import { granite } from "./granite.ts";
import { llama } from "./llama.ts";
import { moe } from "./moe.ts";
import { olmo2 } from "./olmo2.ts";

const FAMILIES: readonly Family[] = [llama, gpt2, gptNeox, gemma1, gemma, granite, olmo2, moe];

/** Every model type that can be converted, sorted. */
export const MODEL_TYPES: readonly string[] = FAMILIES.flatMap((family) => family.modelTypes).sort();

/** The family of a model type. Throws ERR_FAMILY_UNKNOWN with the list. */
export function familyOf(file: string, modelType: unknown): Family {
  const family = FAMILIES.find((candidate) => candidate.modelTypes.includes(String(modelType)));
  if (!family) throw unknownFamily(file, modelType, MODEL_TYPES);
  return family;
}
