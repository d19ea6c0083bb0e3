// SPDX-License-Identifier: Apache-2.0
// Lengths in the tokens of a loaded model.

import { misuse } from "../../errors.ts";
import type { SteerModel } from "../../model/steer-model.ts";
import { type TokenCounter, WholeCounter } from "./counter.ts";

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
  return new WholeCounter(
    `${model.info.name} ${model.info.weightHash.slice(0, 12)}`,
    (text) => tokenizer.encode(text, { addSpecialTokens: false }).length,
  );
}
