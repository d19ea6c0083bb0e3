// SPDX-License-Identifier: Apache-2.0
// Principal components by randomised subspace iteration (Halko, Martinsson and Tropp 2011). Points are
// [rows, dim] row-major float32; sums are float64.

import { seededUint32, uniform } from "../../data/shuffle.ts";

export interface Points {
  data: Float32Array;
  rows: number;
  dim: number;
}

/** Standard normal numbers by Box and Muller. */
export function gaussian(next: () => number): () => number {
  let spare: number | null = null;
  return () => {
    if (spare !== null) {
      const value = spare;
      spare = null;
      return value;
    }
    const radius = Math.sqrt(-2 * Math.log(1 - uniform(next)));
    const angle = 2 * Math.PI * uniform(next);
    spare = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  };
}

/** Columns of `basis` ([dim, count] column-major) made orthonormal (modified Gram-Schmidt, twice). */
function orthonormalize(basis: Float64Array, dim: number, count: number): void {
  for (let column = 0; column < count; column++) {
    const at = column * dim;
    for (let pass = 0; pass < 2; pass++) {
      for (let other = 0; other < column; other++) {
        let dot = 0;
        for (let i = 0; i < dim; i++) dot += (basis[at + i] as number) * (basis[other * dim + i] as number);
        for (let i = 0; i < dim; i++)
          basis[at + i] = (basis[at + i] as number) - dot * (basis[other * dim + i] as number);
      }
    }
    let norm = 0;
    for (let i = 0; i < dim; i++) norm += (basis[at + i] as number) ** 2;
    norm = Math.sqrt(norm) || 1;
    for (let i = 0; i < dim; i++) basis[at + i] = (basis[at + i] as number) / norm;
  }
}

export interface Components {
  /** Scores of the points, [rows, count] row-major. */
  scores: Float32Array;
  count: number;
  /** Variance along each component, and in all. */
  variances: number[];
  totalVariance: number;
}

const ROUNDS = 7;
const SPARE = 8;

/** The first `count` principal components, ordered, each with its largest coefficient positive. */
export function principalComponents({ data, rows, dim }: Points, count: number, seed: number): Components {
  const wanted = Math.min(count, dim);
  const size = Math.min(dim, wanted + SPARE);
  const mean = new Float64Array(dim);
  for (let row = 0; row < rows; row++)
    for (let i = 0; i < dim; i++) mean[i] = (mean[i] as number) + (data[row * dim + i] as number);
  for (let i = 0; i < dim; i++) mean[i] = (mean[i] as number) / Math.max(rows, 1);
  const draw = gaussian(seededUint32(seed));
  let basis = Float64Array.from({ length: dim * size }, draw);
  orthonormalize(basis, dim, size);
  const projected = new Float64Array(size);
  const centred = new Float64Array(dim);
  let totalVariance = 0;
  for (let round = 0; round < ROUNDS; round++) {
    const image = new Float64Array(dim * size);
    totalVariance = 0;
    for (let row = 0; row < rows; row++) {
      for (let i = 0; i < dim; i++) {
        const value = (data[row * dim + i] as number) - (mean[i] as number);
        centred[i] = value;
        totalVariance += value * value;
      }
      for (let c = 0; c < size; c++) {
        let dot = 0;
        const at = c * dim;
        for (let i = 0; i < dim; i++) dot += (basis[at + i] as number) * (centred[i] as number);
        projected[c] = dot;
      }
      for (let c = 0; c < size; c++) {
        const weight = projected[c] as number;
        const at = c * dim;
        for (let i = 0; i < dim; i++)
          image[at + i] = (image[at + i] as number) + weight * (centred[i] as number);
      }
    }
    basis = image;
    orthonormalize(basis, dim, size);
  }
  // Within the subspace found, the exact axes: eigenvectors of the small covariance by Jacobi rotations.
  const all = new Float64Array(rows * size);
  for (let row = 0; row < rows; row++) {
    for (let c = 0; c < size; c++) {
      let dot = 0;
      for (let i = 0; i < dim; i++)
        dot += (basis[c * dim + i] as number) * ((data[row * dim + i] as number) - (mean[i] as number));
      all[row * size + c] = dot;
    }
  }
  const covariance = new Float64Array(size * size);
  for (let row = 0; row < rows; row++)
    for (let a = 0; a < size; a++)
      for (let b = 0; b < size; b++)
        covariance[a * size + b] =
          (covariance[a * size + b] as number) +
          ((all[row * size + a] as number) * (all[row * size + b] as number)) / Math.max(rows - 1, 1);
  const { vectors, values } = jacobi(covariance, size);
  const order = [...values.keys()]
    .sort((a, b) => (values[b] as number) - (values[a] as number))
    .slice(0, wanted);
  const scores = new Float32Array(rows * wanted);
  order.forEach((column, c) => {
    let largest = 0;
    for (let i = 0; i < dim; i++) {
      let coefficient = 0;
      for (let k = 0; k < size; k++)
        coefficient += (basis[k * dim + i] as number) * (vectors[k * size + column] as number);
      if (Math.abs(coefficient) > Math.abs(largest)) largest = coefficient;
    }
    const sign = largest < 0 ? -1 : 1;
    for (let row = 0; row < rows; row++) {
      let dot = 0;
      for (let k = 0; k < size; k++)
        dot += (all[row * size + k] as number) * (vectors[k * size + column] as number);
      scores[row * wanted + c] = sign * dot;
    }
  });
  return {
    scores,
    count: wanted,
    variances: order.map((column) => values[column] as number),
    totalVariance: totalVariance / Math.max(rows - 1, 1),
  };
}

/** Eigenvectors (columns) and values of a small symmetric matrix. */
function jacobi(given: Float64Array, size: number): { vectors: Float64Array; values: number[] } {
  const a = given.slice();
  const v = new Float64Array(size * size);
  for (let i = 0; i < size; i++) v[i * size + i] = 1;
  for (let sweep = 0; sweep < 60; sweep++) {
    let off = 0;
    for (let p = 0; p < size; p++) for (let q = p + 1; q < size; q++) off += (a[p * size + q] as number) ** 2;
    if (off < 1e-22) break;
    for (let p = 0; p < size; p++) {
      for (let q = p + 1; q < size; q++) {
        const apq = a[p * size + q] as number;
        if (apq === 0) continue;
        const theta = ((a[q * size + q] as number) - (a[p * size + p] as number)) / (2 * apq);
        const t = Math.sign(theta || 1) / (Math.abs(theta) + Math.sqrt(theta * theta + 1));
        const c = 1 / Math.sqrt(t * t + 1);
        const s = t * c;
        for (let k = 0; k < size; k++) {
          const kp = a[k * size + p] as number;
          const kq = a[k * size + q] as number;
          a[k * size + p] = c * kp - s * kq;
          a[k * size + q] = s * kp + c * kq;
        }
        for (let k = 0; k < size; k++) {
          const pk = a[p * size + k] as number;
          const qk = a[q * size + k] as number;
          a[p * size + k] = c * pk - s * qk;
          a[q * size + k] = s * pk + c * qk;
          const vp = v[k * size + p] as number;
          const vq = v[k * size + q] as number;
          v[k * size + p] = c * vp - s * vq;
          v[k * size + q] = s * vp + c * vq;
        }
      }
    }
  }
  return { vectors: v, values: Array.from({ length: size }, (_, i) => a[i * size + i] as number) };
}
