// SPDX-License-Identifier: Apache-2.0
// UMAP (McInnes, Healy and Melville 2018): a fuzzy graph of neighbours, laid out by sampled gradient
// steps. Begins from principal components, so that the same points and seed give the same picture.

import { seededUint32, uniform } from "../../data/shuffle.ts";
import { type Points, principalComponents } from "./linear.ts";
import { nearestNeighbours } from "./neighbours.ts";

export interface UmapOptions {
  components: number;
  neighbours: number;
  minDist: number;
  seed: number;
  /** "cosine": distances are 1 - cos of the points, which must be normalised. */
  metric: "cosine" | "euclidean";
  onProgress?: (done: number, all: number) => void;
}

const NEGATIVES = 5;

/** Coordinates, [rows, components] row-major. */
export function umap(points: Points, options: UmapOptions): Float32Array {
  const { rows } = points;
  const { components } = options;
  if (rows <= components + 1) return principalComponents(points, components, options.seed).scores;
  const { k, indices, squared } = nearestNeighbours(points, options.neighbours, options.seed);
  const distances = Float64Array.from(squared, (value) =>
    options.metric === "cosine" ? value / 2 : Math.sqrt(value),
  );
  const edges = fuzzyGraph(indices, distances, rows, k);
  const { a, b } = fitCurve(options.minDist);
  const layout = principalComponents(points, components, options.seed).scores;
  const out = new Float32Array(rows * components);
  let extent = 0;
  for (const value of layout) extent = Math.max(extent, Math.abs(value));
  const next = seededUint32(options.seed + 1);
  const width = layout.length / rows;
  for (let row = 0; row < rows; row++)
    for (let c = 0; c < components; c++)
      out[row * components + c] =
        (c < width ? ((layout[row * width + c] as number) / (extent || 1)) * 10 : 0) +
        (uniform(next) - 0.5) * 2e-3;
  optimise(out, components, rows, edges, {
    a,
    b,
    epochs: rows <= 10_000 ? 500 : 200,
    next,
    onProgress: options.onProgress,
  });
  return out;
}

interface Edges {
  from: Int32Array;
  to: Int32Array;
  weight: Float32Array;
}

/** Membership strengths, smoothed to log2(k) neighbours each, joined by the probabilistic sum. */
function fuzzyGraph(indices: Int32Array, distances: Float64Array, rows: number, k: number): Edges {
  const target = Math.log2(k + 1);
  const strengths = new Float32Array(rows * k);
  for (let row = 0; row < rows; row++) {
    const at = row * k;
    let rho = 0;
    for (let i = 0; i < k && rho === 0; i++) rho = distances[at + i] as number;
    let low = 0;
    let high = Number.POSITIVE_INFINITY;
    let sigma = 1;
    for (let step = 0; step < 64; step++) {
      let sum = 0;
      for (let i = 0; i < k; i++) {
        const d = (distances[at + i] as number) - rho;
        sum += d > 0 ? Math.exp(-d / sigma) : 1;
      }
      if (Math.abs(sum - target) < 1e-5) break;
      if (sum > target) {
        high = sigma;
        sigma = (low + high) / 2;
      } else {
        low = sigma;
        sigma = high === Number.POSITIVE_INFINITY ? sigma * 2 : (low + high) / 2;
      }
    }
    let mean = 0;
    for (let i = 0; i < k; i++) mean += (distances[at + i] as number) / k;
    sigma = Math.max(sigma, 1e-3 * mean, 1e-12);
    for (let i = 0; i < k; i++) {
      const d = (distances[at + i] as number) - rho;
      strengths[at + i] = d > 0 ? Math.exp(-d / sigma) : 1;
    }
  }
  const reverse = (from: number, to: number): number => {
    for (let i = 0; i < k; i++) if (indices[from * k + i] === to) return strengths[from * k + i] as number;
    return 0;
  };
  const from: number[] = [];
  const to: number[] = [];
  const weight: number[] = [];
  for (let row = 0; row < rows; row++) {
    for (let i = 0; i < k; i++) {
      const other = indices[row * k + i] as number;
      if (other < 0) continue;
      const forth = strengths[row * k + i] as number;
      const back = reverse(other, row);
      if (back > 0 && other < row) continue;
      from.push(row);
      to.push(other);
      weight.push(forth + back - forth * back);
    }
  }
  return { from: Int32Array.from(from), to: Int32Array.from(to), weight: Float32Array.from(weight) };
}

/** a and b of 1 / (1 + a d^2b), fitted to the wanted fall-off at minDist by Gauss-Newton with damping. */
export function fitCurve(minDist: number, spread = 1): { a: number; b: number } {
  const xs = Array.from({ length: 300 }, (_, i) => ((i + 1) / 300) * spread * 3);
  const ys = xs.map((x) => (x < minDist ? 1 : Math.exp(-(x - minDist) / spread)));
  const error = (a: number, b: number): number =>
    xs.reduce((sum, x, i) => sum + (1 / (1 + a * x ** (2 * b)) - (ys[i] as number)) ** 2, 0);
  let a = 1.5;
  let b = 0.9;
  let damping = 1e-3;
  let best = error(a, b);
  for (let step = 0; step < 200; step++) {
    let [haa, hab, hbb, ga, gb] = [0, 0, 0, 0, 0];
    xs.forEach((x, i) => {
      const power = x ** (2 * b);
      const f = 1 / (1 + a * power);
      const r = f - (ys[i] as number);
      const da = -power * f * f;
      const db = -2 * a * power * Math.log(x) * f * f;
      haa += da * da;
      hab += da * db;
      hbb += db * db;
      ga += da * r;
      gb += db * r;
    });
    const p = haa * (1 + damping);
    const q = hbb * (1 + damping);
    const determinant = p * q - hab * hab;
    const nextA = a - (q * ga - hab * gb) / determinant;
    const nextB = b - (p * gb - hab * ga) / determinant;
    const now = nextA > 0 && nextB > 0 ? error(nextA, nextB) : Number.POSITIVE_INFINITY;
    if (now < best) {
      const gain = best - now;
      [a, b, best] = [nextA, nextB, now];
      damping /= 3;
      if (gain < 1e-14) break;
    } else damping *= 4;
  }
  return { a, b };
}

const clip = (value: number): number => (value > 4 ? 4 : Math.max(value, -4));

function optimise(
  layout: Float32Array,
  dim: number,
  rows: number,
  edges: Edges,
  options: {
    a: number;
    b: number;
    epochs: number;
    next: () => number;
    onProgress: UmapOptions["onProgress"] | undefined;
  },
): void {
  const { a, b, epochs, next, onProgress } = options;
  const count = edges.weight.length;
  let strongest = 0;
  for (const weight of edges.weight) strongest = Math.max(strongest, weight);
  const every = Float32Array.from(edges.weight, (weight) => strongest / weight);
  const due = every.slice();
  for (let epoch = 1; epoch <= epochs; epoch++) {
    const rate = 1 - (epoch - 1) / epochs;
    for (let edge = 0; edge < count; edge++) {
      if ((due[edge] as number) > epoch) continue;
      due[edge] = (due[edge] as number) + (every[edge] as number);
      const i = (edges.from[edge] as number) * dim;
      const j = (edges.to[edge] as number) * dim;
      let d2 = 0;
      for (let c = 0; c < dim; c++) d2 += ((layout[i + c] as number) - (layout[j + c] as number)) ** 2;
      if (d2 > 0) {
        const pull = (-2 * a * b * d2 ** (b - 1)) / (1 + a * d2 ** b);
        for (let c = 0; c < dim; c++) {
          const step = clip(pull * ((layout[i + c] as number) - (layout[j + c] as number))) * rate;
          layout[i + c] = (layout[i + c] as number) + step;
          layout[j + c] = (layout[j + c] as number) - step;
        }
      }
      for (let n = 0; n < NEGATIVES; n++) {
        const o = (next() % rows) * dim;
        if (o === i) continue;
        let r2 = 0;
        for (let c = 0; c < dim; c++) r2 += ((layout[i + c] as number) - (layout[o + c] as number)) ** 2;
        const push = r2 > 0 ? (2 * b) / ((0.001 + r2) * (1 + a * r2 ** b)) : 0;
        for (let c = 0; c < dim; c++) {
          const step = push > 0 ? clip(push * ((layout[i + c] as number) - (layout[o + c] as number))) : 4;
          layout[i + c] = (layout[i + c] as number) + step * rate;
        }
      }
    }
    onProgress?.(epoch, epochs);
  }
}
