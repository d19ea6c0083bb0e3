// SPDX-License-Identifier: Apache-2.0
// Byte-pair encoding by ranks, counting alone: how many tokens a piece of text becomes, not which.

/** Token bytes as a Latin-1 string, to rank. Lower ranks merge first. */
export type Ranks = ReadonlyMap<string, number>;

/** From this many bytes on, the quadratic scan gives way to a heap. */
const HEAP_FROM = 96;
const NONE = 0x7fffffff;
const MOST_REMEMBERED = 1 << 17;

/** The number of tokens of one piece (a match of the tokenizer's split pattern). */
export function countPairs(piece: string, ranks: Ranks): number {
  const bytes = isAscii(piece) ? piece : Buffer.from(piece, "utf8").toString("latin1");
  if (bytes.length === 1 || ranks.has(bytes)) return 1;
  return bytes.length < HEAP_FROM ? countByScan(bytes, ranks) : countByHeap(bytes, ranks);
}

/** Counts pieces and keeps what it counted: far fewer pieces come than a vocabulary has. */
export class PairCounter {
  readonly #ranks: Ranks;
  readonly #counted = new Map<string, number>();

  constructor(ranks: Ranks) {
    this.#ranks = ranks;
  }

  count(piece: string): number {
    let count = this.#counted.get(piece);
    if (count === undefined) {
      count = countPairs(piece, this.#ranks);
      if (this.#counted.size >= MOST_REMEMBERED) this.#counted.clear();
      if (piece.length <= HEAP_FROM) this.#counted.set(piece, count);
    }
    return count;
  }
}

function isAscii(text: string): boolean {
  for (let i = 0; i < text.length; i++) if (text.charCodeAt(i) > 0x7f) return false;
  return true;
}

function countByScan(bytes: string, ranks: Ranks): number {
  const starts = Array.from({ length: bytes.length + 1 }, (_, i) => i);
  const pair = (i: number) =>
    i + 2 < starts.length ? (ranks.get(bytes.slice(starts[i]!, starts[i + 2]!)) ?? NONE) : NONE;
  const pairs = starts.map((_, i) => pair(i));
  for (;;) {
    let best = NONE;
    let at = -1;
    for (let i = 0; i < pairs.length; i++) {
      if (pairs[i]! < best) {
        best = pairs[i]!;
        at = i;
      }
    }
    if (at < 0) return starts.length - 1;
    starts.splice(at + 1, 1);
    pairs.splice(at + 1, 1);
    pairs[at] = pair(at);
    if (at > 0) pairs[at - 1] = pair(at - 1);
  }
}

/** The same merges in O(n log n), for long unbroken runs: the leftmost of the lowest rank each time. */
function countByHeap(bytes: string, ranks: Ranks): number {
  const n = bytes.length;
  const next = Int32Array.from({ length: n }, (_, i) => i + 1);
  const previous = Int32Array.from({ length: n }, (_, i) => i - 1);
  const alive = new Uint8Array(n).fill(1);
  const current = new Int32Array(n).fill(NONE);
  const heap = new PairHeap();
  const offer = (i: number) => {
    const second = next[i]!;
    const rank = second < n ? (ranks.get(bytes.slice(i, next[second]!)) ?? NONE) : NONE;
    current[i] = rank;
    if (rank !== NONE) heap.push(rank, i);
  };
  for (let i = 0; i < n; i++) offer(i);
  let parts = n;
  for (let top = heap.pop(); top; top = heap.pop()) {
    const [rank, i] = top;
    if (!alive[i] || current[i] !== rank) continue;
    const gone = next[i]!;
    alive[gone] = 0;
    next[i] = next[gone]!;
    if (next[i]! < n) previous[next[i]!] = i;
    parts--;
    offer(i);
    if (previous[i]! >= 0) offer(previous[i]!);
  }
  return parts;
}

/** A binary heap of (rank, position), lowest first. */
class PairHeap {
  readonly #items: Array<readonly [number, number]> = [];

  push(rank: number, at: number): void {
    const items = this.#items;
    let i = items.push([rank, at]) - 1;
    while (i > 0) {
      const parent = (i - 1) >> 1;
      if (!this.#less(i, parent)) break;
      this.#swap(i, parent);
      i = parent;
    }
  }

  pop(): readonly [number, number] | undefined {
    const items = this.#items;
    const top = items[0];
    const last = items.pop();
    if (items.length === 0 || last === undefined) return top;
    items[0] = last;
    for (let i = 0; ; ) {
      let least = i;
      for (const child of [2 * i + 1, 2 * i + 2])
        if (child < items.length && this.#less(child, least)) least = child;
      if (least === i) return top;
      this.#swap(i, least);
      i = least;
    }
  }

  #less(a: number, b: number): boolean {
    const [rankA, atA] = this.#items[a]!;
    const [rankB, atB] = this.#items[b]!;
    return rankA < rankB || (rankA === rankB && atA < atB);
  }

  #swap(a: number, b: number): void {
    const held = this.#items[a]!;
    this.#items[a] = this.#items[b]!;
    this.#items[b] = held;
  }
}
