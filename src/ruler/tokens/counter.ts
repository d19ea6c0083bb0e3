// SPDX-License-Identifier: Apache-2.0
// Counting tokens without encoding the text again and again. Nearly all of RULER's time upstream is spent
// re-encoding texts that differ in a few lines; here a text is cut at places no token can span, and the count
// of each piece is remembered.

/** Counts tokens, special ones left out, as RULER's `len(tokenizer.text_to_tokens(text))`. */
export interface TokenCounter {
  /** What was asked for: `cl100k_base`, a path, a model's name. */
  readonly name: string;
  count(text: string): number;
}

export interface PieceCounter {
  /** Tokens of a piece at the very start of a text. */
  first(piece: string): number;
  /** Tokens of a piece that starts with a space and follows a visible character. */
  next(piece: string): number;
}

const SLOTS = 1 << 18;
const MAX_ENTRIES = SLOTS >> 1;
/** Longer pieces seldom come twice. */
const MAX_LENGTH = 48;

/**
 * A counter for tokenizers in which no token spans the border between a visible character and a space after
 * it. That holds for every pattern-split byte-level BPE in use (cl100k, o200k, GPT-2, Llama 3, Qwen), because
 * their patterns take a space at the head of a match only; `selectTokenizer` decides for which it holds.
 * Pieces are looked up by hash without being cut out of the text.
 */
export class SplitCounter implements TokenCounter {
  readonly name: string;
  readonly #pieces: PieceCounter;
  readonly #hashes = new Int32Array(SLOTS);
  readonly #starts = new Int32Array(SLOTS);
  readonly #lengths = new Uint8Array(SLOTS);
  readonly #counts = new Int32Array(SLOTS).fill(-1);
  #arena = new Uint16Array(1 << 18);
  #arenaEnd = 0;
  #entries = 0;

  constructor(name: string, pieces: PieceCounter) {
    this.name = name;
    this.#pieces = pieces;
  }

  count(text: string): number {
    if (text === "") return 0;
    let total = 0;
    let start = 0;
    let hash = 0;
    let before = 0x20;
    for (let i = 0; i < text.length; i++) {
      const unit = text.charCodeAt(i);
      if (unit === 0x20 && before > 0x20 && (before < 0x80 || !isWideSpace(before))) {
        total += start === 0 ? this.#pieces.first(text.slice(0, i)) : this.#lookup(text, start, i, hash);
        start = i;
        hash = 0;
      }
      hash = (Math.imul(hash, 0x01000193) ^ unit) | 0;
      before = unit;
    }
    return total + (start === 0 ? this.#pieces.first(text) : this.#lookup(text, start, text.length, hash));
  }

  #lookup(text: string, start: number, end: number, hash: number): number {
    const length = end - start;
    if (length > MAX_LENGTH) return this.#pieces.next(text.slice(start, end));
    let slot = (hash ^ (hash >>> 15)) & (SLOTS - 1);
    while (this.#counts[slot]! >= 0) {
      if (this.#hashes[slot] === hash && this.#lengths[slot] === length && this.#same(slot, text, start))
        return this.#counts[slot]!;
      slot = (slot + 1) & (SLOTS - 1);
    }
    const count = this.#pieces.next(text.slice(start, end));
    this.#remember(text, start, length, hash, count);
    return count;
  }

  #same(slot: number, text: string, start: number): boolean {
    const at = this.#starts[slot]!;
    for (let i = 0; i < this.#lengths[slot]!; i++)
      if (this.#arena[at + i] !== text.charCodeAt(start + i)) return false;
    return true;
  }

  #remember(text: string, start: number, length: number, hash: number, count: number): void {
    if (this.#entries >= MAX_ENTRIES) {
      this.#counts.fill(-1);
      this.#entries = 0;
      this.#arenaEnd = 0;
    }
    if (this.#arenaEnd + length > this.#arena.length) {
      const larger = new Uint16Array(this.#arena.length * 2);
      larger.set(this.#arena);
      this.#arena = larger;
    }
    let slot = (hash ^ (hash >>> 15)) & (SLOTS - 1);
    while (this.#counts[slot]! >= 0) slot = (slot + 1) & (SLOTS - 1);
    for (let i = 0; i < length; i++) this.#arena[this.#arenaEnd + i] = text.charCodeAt(start + i);
    this.#hashes[slot] = hash;
    this.#starts[slot] = this.#arenaEnd;
    this.#lengths[slot] = length;
    this.#counts[slot] = count;
    this.#arenaEnd += length;
    this.#entries++;
  }
}

function isWideSpace(unit: number): boolean {
  return /[\s\x85]/.test(String.fromCharCode(unit));
}

/** A counter for tokenizers of which nothing is known: every text is encoded whole. */
export class WholeCounter implements TokenCounter {
  readonly name: string;
  readonly #encode: (text: string) => number;

  constructor(name: string, encode: (text: string) => number) {
    this.name = name;
    this.#encode = encode;
  }

  count(text: string): number {
    return text === "" ? 0 : this.#encode(text);
  }
}
