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

const FIRST_SLOTS = 1 << 12;
const MOST_SLOTS = 1 << 18;
/** Longer pieces seldom come twice, nor do numbers and identifiers. */
const MAX_LENGTH = 32;
const LONG_NUMBER = /\d{6}/;

/**
 * A counter for tokenizers in which no token spans the border between a visible character and a space after
 * it. That holds for every pattern-split byte-level BPE in use (cl100k, o200k, GPT-2, Llama 3, Qwen), because
 * their patterns take a space at the head of a match only; `selectTokenizer` decides for which it holds.
 */
export class SplitCounter implements TokenCounter {
  readonly name: string;
  readonly #pieces: PieceCounter;
  readonly #table = new PieceTable();
  #bytes = Buffer.alloc(1 << 16);
  #units = new Uint16Array(this.#bytes.buffer, 0, 1 << 15);

  constructor(name: string, pieces: PieceCounter) {
    this.name = name;
    this.#pieces = pieces;
  }

  count(text: string): number {
    if (text === "") return 0;
    const { length } = text;
    const units = this.#copyOut(text);
    let total = 0;
    let start = 0;
    let hash = 0;
    let before = 0x20;
    for (let i = 0; i < length; i++) {
      const unit = units[i]!;
      if (unit === 0x20 && before > 0x20 && (before < 0x80 || !isWideSpace(before))) {
        total += this.#piece(text, units, start, i, hash);
        start = i;
        hash = 0;
      }
      hash = (Math.imul(hash, 0x01000193) ^ unit) | 0;
      before = unit;
    }
    return total + this.#piece(text, units, start, length, hash);
  }

  /** The text's units in a typed array: several times faster to walk than a string put together of parts. */
  #copyOut(text: string): Uint16Array {
    if (text.length * 2 > this.#bytes.length) {
      this.#bytes = Buffer.alloc(text.length * 3);
      this.#units = new Uint16Array(this.#bytes.buffer, 0, this.#bytes.length >> 1);
    }
    this.#bytes.write(text, "utf16le");
    return this.#units;
  }

  #piece(text: string, units: Uint16Array, start: number, end: number, hash: number): number {
    if (start === 0) return this.#pieces.first(text.slice(0, end));
    if (end - start > MAX_LENGTH) return this.#pieces.next(text.slice(start, end));
    const known = this.#table.get(units, start, end, hash);
    if (known >= 0) return known;
    const piece = text.slice(start, end);
    const count = this.#pieces.next(piece);
    if (!LONG_NUMBER.test(piece)) this.#table.set(units, start, end, hash, count);
    return count;
  }
}

/**
 * Counts by piece, looked up by hash without cutting the piece out of its text. An entry is four words side by
 * side (hash, place in the arena, length + 1, count), so a hit costs one cache line and the arena's. The table
 * starts small and doubles; at its largest it is emptied, since what fills it then is numbers that never return.
 */
class PieceTable {
  #mask = FIRST_SLOTS - 1;
  #entries = new Int32Array(FIRST_SLOTS * 4);
  #used = 0;
  #arena = new Uint16Array(1 << 15);
  #arenaEnd = 0;

  get(units: Uint16Array, start: number, end: number, hash: number): number {
    const entries = this.#entries;
    const arena = this.#arena;
    const size = end - start + 1;
    for (let slot = spread(hash) & this.#mask; ; slot = (slot + 1) & this.#mask) {
      const at = slot * 4;
      if (entries[at + 2] === 0) return -1;
      if (entries[at] !== hash || entries[at + 2] !== size) continue;
      const from = entries[at + 1]! - start;
      let i = start;
      while (i < end && arena[from + i] === units[i]) i++;
      if (i === end) return entries[at + 3]!;
    }
  }

  set(units: Uint16Array, start: number, end: number, hash: number, count: number): void {
    if (this.#used * 2 > this.#mask) this.#enlarge();
    if (this.#arenaEnd + end - start > this.#arena.length) {
      const larger = new Uint16Array(this.#arena.length * 2);
      larger.set(this.#arena);
      this.#arena = larger;
    }
    this.#place(hash, this.#arenaEnd, end - start + 1, count);
    for (let i = start; i < end; i++) this.#arena[this.#arenaEnd++] = units[i]!;
    this.#used++;
  }

  #place(hash: number, from: number, size: number, count: number): void {
    let slot = spread(hash) & this.#mask;
    while (this.#entries[slot * 4 + 2] !== 0) slot = (slot + 1) & this.#mask;
    this.#entries.set([hash, from, size, count], slot * 4);
  }

  #enlarge(): void {
    if (this.#mask + 1 >= MOST_SLOTS) {
      this.#entries.fill(0);
      this.#used = 0;
      this.#arenaEnd = 0;
      return;
    }
    const old = this.#entries;
    this.#mask = this.#mask * 2 + 1;
    this.#entries = new Int32Array((this.#mask + 1) * 4);
    for (let at = 0; at < old.length; at += 4)
      if (old[at + 2] !== 0) this.#place(old[at]!, old[at + 1]!, old[at + 2]!, old[at + 3]!);
  }
}

function spread(hash: number): number {
  return hash ^ (hash >>> 15);
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
