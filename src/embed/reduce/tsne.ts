// SPDX-License-Identifier: Apache-2.0
// t-SNE with Barnes-Hut repulsion (van der Maaten 2014) in two or three dimensions, begun from principal
// components.

import { type Points, principalComponents } from "./linear.ts";
import { nearestNeighbours } from "./neighbours.ts";

export interface TsneOptions {
  components: number;
  perplexity: number;
  seed: number;
  iterations?: number;
  onProgress?: (done: number, all: number) => void;
}

const THETA = 0.5;
const EXAGGERATION = 12;

/** Coordinates, [rows, components] row-major. Needs more rows than three times the perplexity. */
export function tsne(points: Points, options: TsneOptions): Float32Array {
  const { rows } = points;
  const { components, seed } = options;
  const iterations = options.iterations ?? 750;
  const perplexity = Math.min(options.perplexity, Math.max(1, (rows - 1) / 3));
  const start = principalComponents(points, components, seed);
  if (rows <= components + 1) return start.scores;
  const y = new Float64Array(rows * components);
  const scale = 1e-4 / Math.sqrt(start.variances[0] || 1);
  for (let row = 0; row < rows; row++)
    for (let c = 0; c < start.count; c++)
      y[row * components + c] = (start.scores[row * start.count + c] as number) * scale;
  const graph = affinities(points, perplexity, seed);
  const velocity = new Float64Array(y.length);
  const gains = new Float64Array(y.length).fill(1);
  const pull = new Float64Array(y.length);
  const push = new Float64Array(y.length);
  const rate = Math.max(rows / EXAGGERATION / 4, 50);
  for (let iteration = 0; iteration < iterations; iteration++) {
    const exaggeration = iteration < 250 ? EXAGGERATION : 1;
    const momentum = iteration < 250 ? 0.5 : 0.8;
    pull.fill(0);
    push.fill(0);
    for (let row = 0; row < rows; row++) {
      for (let e = graph.starts[row] as number; e < (graph.starts[row + 1] as number); e++) {
        const other = (graph.to[e] as number) * components;
        const at = row * components;
        let d2 = 0;
        for (let c = 0; c < components; c++) d2 += ((y[at + c] as number) - (y[other + c] as number)) ** 2;
        const weight = (exaggeration * (graph.weights[e] as number)) / (1 + d2);
        for (let c = 0; c < components; c++)
          pull[at + c] =
            (pull[at + c] as number) + weight * ((y[at + c] as number) - (y[other + c] as number));
      }
    }
    const z = repulsion(y, rows, components, push);
    for (let i = 0; i < y.length; i++) {
      const gradient = 4 * ((pull[i] as number) - (push[i] as number) / z);
      const same = Math.sign(gradient) === Math.sign(velocity[i] as number);
      gains[i] = Math.max(0.01, same ? (gains[i] as number) * 0.8 : (gains[i] as number) + 0.2);
      velocity[i] = momentum * (velocity[i] as number) - rate * (gains[i] as number) * gradient;
      y[i] = (y[i] as number) + (velocity[i] as number);
    }
    for (let c = 0; c < components; c++) {
      let mean = 0;
      for (let row = 0; row < rows; row++) mean += (y[row * components + c] as number) / rows;
      for (let row = 0; row < rows; row++)
        y[row * components + c] = (y[row * components + c] as number) - mean;
    }
    options.onProgress?.(iteration + 1, iterations);
  }
  return Float32Array.from(y);
}

interface Graph {
  starts: Int32Array;
  to: Int32Array;
  weights: Float64Array;
}

/** Symmetric joint probabilities over the 3 x perplexity nearest neighbours. */
function affinities(points: Points, perplexity: number, seed: number): Graph {
  const { rows } = points;
  const { k, indices, squared } = nearestNeighbours(points, Math.ceil(3 * perplexity), seed);
  const target = Math.log(perplexity);
  const pairs: Map<number, number>[] = Array.from({ length: rows }, () => new Map());
  for (let row = 0; row < rows; row++) {
    const at = row * k;
    const nearest = squared[at] as number;
    let [low, high, beta] = [0, Number.POSITIVE_INFINITY, 1];
    let weights: number[] = [];
    let sum = 1;
    for (let step = 0; step < 100; step++) {
      weights = Array.from({ length: k }, (_, i) =>
        Math.exp(-beta * ((squared[at + i] as number) - nearest)),
      );
      sum = weights.reduce((total, weight) => total + weight, 0);
      const entropy =
        Math.log(sum) +
        weights.reduce(
          (total, weight, i) => total + beta * weight * ((squared[at + i] as number) - nearest),
          0,
        ) /
          sum;
      if (Math.abs(entropy - target) < 1e-5) break;
      if (entropy > target) {
        low = beta;
        beta = high === Number.POSITIVE_INFINITY ? beta * 2 : (low + high) / 2;
      } else {
        high = beta;
        beta = (low + high) / 2;
      }
    }
    weights.forEach((weight, i) => {
      const other = indices[at + i] as number;
      if (other < 0) return;
      const share = weight / sum / (2 * rows);
      const here = pairs[row] as Map<number, number>;
      const there = pairs[other] as Map<number, number>;
      here.set(other, (here.get(other) ?? 0) + share);
      there.set(row, (there.get(row) ?? 0) + share);
    });
  }
  const starts = new Int32Array(rows + 1);
  pairs.forEach((map, row) => {
    starts[row + 1] = (starts[row] as number) + map.size;
  });
  const to = new Int32Array(starts[rows] as number);
  const weights = new Float64Array(to.length);
  pairs.forEach((map, row) => {
    let at = starts[row] as number;
    for (const [other, weight] of map) {
      to[at] = other;
      weights[at++] = weight;
    }
  });
  return { starts, to, weights };
}

/** Adds unnormalised repulsion of every point to `push`; returns the normaliser Z. */
function repulsion(y: Float64Array, rows: number, dim: number, push: Float64Array): number {
  const ways = 1 << dim;
  // A tree of cells in flat arrays: centre and half width, mass, centre of mass, children, single point.
  let capacity = rows * 4 + 64;
  let children = new Int32Array(capacity * ways).fill(-1);
  let mass = new Float64Array(capacity);
  let moment = new Float64Array(capacity * dim);
  let centre = new Float64Array(capacity * dim);
  let half = new Float64Array(capacity);
  let single = new Int32Array(capacity).fill(-1);
  let cells = 1;
  const grow = (): void => {
    const bigger = <T extends Float64Array | Int32Array>(old: T, fresh: T): T => {
      fresh.set(old as never);
      return fresh;
    };
    capacity *= 2;
    children = bigger(children, new Int32Array(capacity * ways).fill(-1));
    mass = bigger(mass, new Float64Array(capacity));
    moment = bigger(moment, new Float64Array(capacity * dim));
    centre = bigger(centre, new Float64Array(capacity * dim));
    half = bigger(half, new Float64Array(capacity));
    single = bigger(single, new Int32Array(capacity).fill(-1));
  };
  let extent = 1e-9;
  for (const value of y) extent = Math.max(extent, Math.abs(value));
  half[0] = extent * 1.0001;

  const childOf = (cell: number, point: number): number => {
    let slot = 0;
    for (let c = 0; c < dim; c++)
      if ((y[point * dim + c] as number) > (centre[cell * dim + c] as number)) slot |= 1 << c;
    const known = children[cell * ways + slot] as number;
    if (known !== -1) return known;
    if (cells === capacity) grow();
    const fresh = cells++;
    children[cell * ways + slot] = fresh;
    half[fresh] = (half[cell] as number) / 2;
    for (let c = 0; c < dim; c++)
      centre[fresh * dim + c] =
        (centre[cell * dim + c] as number) + (slot & (1 << c) ? 1 : -1) * (half[fresh] as number);
    return fresh;
  };
  const deposit = (cell: number, point: number): void => {
    mass[cell] = (mass[cell] as number) + 1;
    for (let c = 0; c < dim; c++)
      moment[cell * dim + c] = (moment[cell * dim + c] as number) + (y[point * dim + c] as number);
  };
  for (let point = 0; point < rows; point++) {
    let cell = 0;
    for (let depth = 0; ; depth++) {
      const before = mass[cell] as number;
      deposit(cell, point);
      if (before === 0) {
        single[cell] = point;
        break;
      }
      // Points on the same spot share a cell.
      if (depth > 48) break;
      const held = single[cell] as number;
      if (held !== -1) {
        single[cell] = -1;
        const down = childOf(cell, held);
        deposit(down, held);
        single[down] = held;
      }
      cell = childOf(cell, point);
    }
  }
  let z = 0;
  const stack = new Int32Array(64 * ways);
  for (let point = 0; point < rows; point++) {
    let top = 0;
    stack[top++] = 0;
    const at = point * dim;
    while (top > 0) {
      const cell = stack[--top] as number;
      const weight = mass[cell] as number;
      let d2 = 0;
      for (let c = 0; c < dim; c++)
        d2 += ((y[at + c] as number) - (moment[cell * dim + c] as number) / weight) ** 2;
      let leaf = true;
      for (let slot = 0; slot < ways && leaf; slot++) leaf = children[cell * ways + slot] === -1;
      if (leaf || (2 * (half[cell] as number)) ** 2 < THETA * THETA * d2) {
        const others = leaf && d2 < 1e-24 ? weight - 1 : weight;
        if (others <= 0) continue;
        const q = 1 / (1 + d2);
        z += others * q;
        for (let c = 0; c < dim; c++)
          push[at + c] =
            (push[at + c] as number) +
            others * q * q * ((y[at + c] as number) - (moment[cell * dim + c] as number) / weight);
      } else
        for (let slot = 0; slot < ways; slot++) {
          const child = children[cell * ways + slot] as number;
          if (child !== -1) stack[top++] = child;
        }
    }
  }
  return Math.max(z, 1e-12);
}
