// SPDX-License-Identifier: Apache-2.0
// Text as it grows: whole characters only, and nothing that may turn out to be a stop string.

import type { Tokenizer } from "./tokenizer.ts";

/** Turns generated ids into text piece by piece. The pieces together equal the whole, cut at the stop. */
export class Detokenizer {
  readonly #tokenizer: Tokenizer;
  readonly #stops: readonly string[];
  readonly #decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  #held = "";
  #ended = false;

  constructor(tokenizer: Tokenizer, stops: readonly string[] = []) {
    this.#tokenizer = tokenizer;
    this.#stops = stops;
  }

  /** Text that these tokens complete. Incomplete UTF-8 and possible stop strings wait. */
  push(ids: ArrayLike<number>): string {
    if (this.#ended) return "";
    const kept = Array.from(ids).filter((id) => !this.#tokenizer.isSpecial(id));
    this.#held += this.#decoder.decode(this.#tokenizer.bytes(kept), { stream: true });
    return this.#release(false);
  }

  /** The rest; broken UTF-8 at the very end becomes U+FFFD. */
  end(): string {
    if (this.#ended) return "";
    this.#held += this.#decoder.decode();
    return this.#release(true);
  }

  #release(last: boolean): string {
    const cut = firstIndex(this.#held, this.#stops);
    if (cut >= 0) this.#ended = true;
    const length = cut >= 0 ? cut : this.#held.length - (last ? 0 : heldBack(this.#held, this.#stops));
    const out = this.#held.slice(0, length);
    this.#held = this.#ended ? "" : this.#held.slice(length);
    return out;
  }
}

/** Index of the stop string that begins first, or -1. */
function firstIndex(text: string, stops: readonly string[]): number {
  let first = -1;
  for (const stop of stops) {
    const at = text.indexOf(stop);
    if (at >= 0 && (first < 0 || at < first)) first = at;
  }
  return first;
}

/** Length of the longest end of the text that some stop string begins with. */
function heldBack(text: string, stops: readonly string[]): number {
  let held = 0;
  for (const stop of stops)
    for (let n = Math.min(stop.length - 1, text.length); n > held; n--)
      if (text.endsWith(stop.slice(0, n))) {
        held = n;
        break;
      }
  return held;
}
