// SPDX-License-Identifier: Apache-2.0
// Nearest neighbours: every pair where there are few points, random-projection trees refined by
// neighbour descent (Dong, Moses and Li 2011) where there are many. Euclidean; cosine is had by
// normalising first.

import { seededUint32 } from "../../data/shuffle.ts";
import type { Points } from "./linear.ts";

export interface Neighbours {
  k: number;
  /** [rows, k] row-major, nearest first, the point itself left out. */
  indices: Int32Array;
  /** Squared distances. */
  squared: Float32Array;
}

const EXACT_ROWS = 6_000;
const TREES = 8;
const LEAF = 40;
const DESCENTS = 6;

function distance(data: Float32Array, dim: number, a: number, b: number): number {
  let sum = 0;
  const p = a * dim;
  const q = b * dim;
  for (let i = 0; i < dim; i++) {
    const d = (data[p + i] as number) - (data[q + i] as number);
    sum += d * d;
  }
  return sum;
}

/** A bounded list of the nearest, kept sorted by insertion. */
class NearestLists {
  readonly indices: Int32Array;
  readonly squared: Float32Array;
  readonly k: number;

  constructor(rows: number, k: number) {
    this.k = k;
    this.indices = new Int32Array(rows * k).fill(-1);
    this.squared = new Float32Array(rows * k).fill(Number.POSITIVE_INFINITY);
  }

  /** Says whether the candidate was new and near enough. */
  offer(row: number, candidate: number, squared: number): boolean {
    const start = row * this.k;
    const end = start + this.k;
    const value = Math.fround(squared);
    if (value >= (this.squared[end - 1] as number)) return false;
    for (let i = start; i < end && (this.squared[i] as number) <= value; i++)
      if (this.indices[i] === candidate) return false;
    let at = end - 1;
    while (at > start && (this.squared[at - 1] as number) > value) {
      this.squared[at] = this.squared[at - 1] as number;
      this.indices[at] = this.indices[at - 1] as number;
      at--;
    }
    this.squared[at] = value;
    this.indices[at] = candidate;
    return true;
  }
}

/** The k nearest of each point; deterministic in points, k and seed. */
export function nearestNeighbours(points: Points, wanted: number, seed: number): Neighbours {
  const { data, rows, dim } = points;
  const k = Math.max(1, Math.min(wanted, rows - 1));
  const lists = new NearestLists(rows, k);
  if (rows <= EXACT_ROWS) {
    for (let a = 0; a < rows; a++) {
      for (let b = a + 1; b < rows; b++) {
        const d = distance(data, dim, a, b);
        lists.offer(a, b, d);
        lists.offer(b, a, d);
      }
    }
  } else {
    const next = seededUint32(seed);
    for (let tree = 0; tree < TREES; tree++) growTree(points, lists, next);
    for (let round = 0; round < DESCENTS; round++) if (descend(points, lists, next) < rows * k * 0.001) break;
  }
  return { k, indices: lists.indices, squared: lists.squared };
}

/** Splits the points by random hyperplanes and compares all within a leaf. */
function growTree({ data, rows, dim }: Points, lists: NearestLists, next: () => number): void {
  const order = Int32Array.from({ length: rows }, (_, i) => i);
  const stack: [number, number][] = [[0, rows]];
  while (stack.length > 0) {
    const [start, end] = stack.pop() as [number, number];
    if (end - start <= LEAF) {
      for (let i = start; i < end; i++) {
        for (let j = i + 1; j < end; j++) {
          const a = order[i] as number;
          const b = order[j] as number;
          const d = distance(data, dim, a, b);
          lists.offer(a, b, d);
          lists.offer(b, a, d);
        }
      }
      continue;
    }
    const p = (order[start + (next() % (end - start))] as number) * dim;
    const q = (order[start + (next() % (end - start))] as number) * dim;
    let low = start;
    let high = end - 1;
    while (low <= high) {
      const at = (order[low] as number) * dim;
      let side = 0;
      for (let i = 0; i < dim; i++) {
        const a = data[p + i] as number;
        const b = data[q + i] as number;
        side += (a - b) * ((data[at + i] as number) - (a + b) / 2);
      }
      if (side > 0 || (side === 0 && (next() & 1) === 0)) low++;
      else {
        const swap = order[low] as number;
        order[low] = order[high] as number;
        order[high--] = swap;
      }
    }
    // Points that are all alike cannot be split by a plane: cut in the middle.
    const cut = low === start || low === end ? (start + end) >> 1 : low;
    stack.push([start, cut], [cut, end]);
  }
}

/** A neighbour of a neighbour is likely a neighbour; returns how many lists changed. */
function descend({ data, rows, dim }: Points, lists: NearestLists, next: () => number): number {
  const { k } = lists;
  const reach = Math.min(k, 10);
  const reverse: number[][] = Array.from({ length: rows }, () => []);
  for (let row = 0; row < rows; row++) {
    for (let i = 0; i < reach; i++) {
      const other = lists.indices[row * k + i] as number;
      if (other < 0) continue;
      const list = reverse[other] as number[];
      if (list.length < reach) list.push(row);
      else if (next() % 3 === 0) list[next() % reach] = row;
    }
  }
  let changes = 0;
  for (let row = 0; row < rows; row++) {
    const near = [...(reverse[row] as number[])];
    for (let i = 0; i < reach; i++) near.push(lists.indices[row * k + i] as number);
    for (let i = 0; i < near.length; i++) {
      const a = near[i] as number;
      if (a < 0) continue;
      for (let j = i + 1; j < near.length; j++) {
        const b = near[j] as number;
        if (b < 0 || a === b) continue;
        const d = distance(data, dim, a, b);
        if (lists.offer(a, b, d)) changes++;
        if (lists.offer(b, a, d)) changes++;
      }
    }
  }
  return changes;
}
