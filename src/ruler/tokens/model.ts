// SPDX-License-Identifier: Apache-2.0
// Lengths in the tokens of a loaded model.

import { misuse } from "../../errors.ts";
import type { SteerModel } from "../../model/steer-model.ts";
import type { Tokenizer } from "../../model/tokenizer.ts";
import type { TokenCounter } from "./counter.ts";
import { cutAtSpaces, cutCounter, type SpaceCut, type TokenizerFile } from "./huggingface.ts";

/** A counter by a model's own tokenizer. @throws TypeError ERR_TOKENIZER_MISSING */
export function modelCounter(model: SteerModel): TokenCounter {
  const { tokenizer } = model;
  if (!tokenizer)
    throw misuse(
      TypeError,
      "ERR_TOKENIZER_MISSING",
      "ruler",
      "a model with a tokenizer, or --counter",
      "none",
    );
  const encode = (text: string) => tokenizer.encode(text, { addSpecialTokens: false }).length;
  const name = `${model.info.name} ${model.info.weightHash.slice(0, 12)}`;
  return cutCounter(name, modelCut(tokenizer), encode);
}

/** Whether and how texts may be cut for a model's tokenizer. */
export function modelCut(tokenizer: Tokenizer): SpaceCut {
  const vocab: Record<string, number> = {};
  for (let id = 0; id < tokenizer.size; id++) {
    const token = tokenizer.tokenOf(id);
    if (token !== undefined) vocab[token] = id;
  }
  return cutAtSpaces({ ...(tokenizer.pipeline as TokenizerFile), model: { vocab } });
}
