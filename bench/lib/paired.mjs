// SPDX-License-Identifier: Apache-2.0
// Interleaved measurement on machines whose speed drifts. Absolute figures of two moments cannot be compared
// there; what lies side by side can. So a ratio is taken within a neighbourhood, and what is reported is the median of
// the ratios with an interval. lib/alternate.mjs has neighbourhoods of single steps, for what can be turned on and
// off within a run; here are those of whole runs.
//
// mirrored(): a b c c b a        sides of equal rank (ours and its peers). One figure a side and round, the
//             mean of its two runs; linear drift cancels likewise.
//
// A run is an async function that resolves to its cost: milliseconds, or anything that grows with time and
// adds up. Nothing is dropped or trimmed; the median is what outliers are left to.
import { median } from "./table.mjs";

/** Uniform numbers in [0, 1) from a seed: order and intervals come out the same each time. */
export function seeded(seed) {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

/**
 * Median with a 95 % percentile-bootstrap interval (2,000 resamples, fixed seed). With fewer than five values
 * (stretches of them) a bootstrap says nothing that the values do not: the interval is then their range.
 * @param stretch values that follow one another are drawn so many at a time: neighbours that depend on one another
 */
export function summary(values, { resamples = 2000, seed = 1, stretch = 1 } = {}) {
  const middle = median(values);
  if (values.length < 5 * stretch)
    return { median: middle, low: Math.min(...values), high: Math.max(...values) };
  const random = seeded(seed);
  const length = Math.min(stretch, values.length);
  const drawn = new Float64Array(values.length);
  const medians = Float64Array.from({ length: resamples }, () => {
    for (let i = 0; i < drawn.length; i += length) {
      const from = Math.floor(random() * (values.length - length + 1));
      for (let j = 0; j < length && i + j < drawn.length; j++) drawn[i + j] = values[from + j];
    }
    drawn.sort();
    return (drawn[(drawn.length - 1) >> 1] + drawn[drawn.length >> 1]) / 2;
  }).sort();
  return {
    median: middle,
    low: medians[Math.floor(0.025 * (resamples - 1))],
    high: medians[Math.ceil(0.975 * (resamples - 1))],
  };
}

/**
 * Sides of equal rank, forth and back in each round. A side that resolves to null cannot do the case and
 * is not asked again.
 * @returns { rounds, sides: { name: costs | null } }
 */
export async function mirrored({ sides, rounds = 3, seconds = Number.POSITIVE_INFINITY }) {
  const costs = Object.fromEntries(Object.keys(sides).map((name) => [name, []]));
  const begin = performance.now();
  let done = 0;
  while (done < rounds && (done === 0 || fits(begin, done, seconds))) {
    const names = Object.keys(sides);
    const sums = {};
    for (const name of [...names, ...names.reverse()]) {
      if (costs[name] === null) continue;
      const cost = await sides[name]();
      if (cost === null) costs[name] = null;
      else sums[name] = (sums[name] ?? 0) + cost;
    }
    for (const name of Object.keys(sides)) if (costs[name] !== null) costs[name].push(sums[name] / 2);
    done++;
  }
  return { rounds: done, sides: costs };
}

/** Will one more round like those before end in time? */
function fits(begin, done, seconds) {
  const spent = (performance.now() - begin) / 1000;
  return spent + spent / done <= seconds;
}

/** "0.42 % (0.40 to 0.45)" of shares of a whole. */
export function shareText(shares, { digits = 2, ...how } = {}) {
  const [middle, low, high] = Object.values(summary(shares, how)).map((share) =>
    (100 * share).toFixed(digits),
  );
  return `${middle} % (${low} to ${high})`;
}

/** "+1.2 % (-0.3 to +2.5)" of ratios to a baseline's cost. */
export function costText(ratios, { digits = 1, ...how } = {}) {
  const { median: middle, low, high } = summary(ratios, how);
  const percent = (ratio) => {
    const text = (100 * (ratio - 1)).toFixed(digits);
    return Number(text) === 0 ? (0).toFixed(digits) : `${ratio > 1 ? "+" : ""}${text}`;
  };
  return `${percent(middle)} % (${percent(low)} to ${percent(high)})`;
}
