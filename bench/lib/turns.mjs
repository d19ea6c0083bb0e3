// SPDX-License-Identifier: Apache-2.0
// Cases timed in turns within one process, each against the first of them: for machines whose speed holds
// still over a round. Where it drifts, lib/paired.mjs.
import { median } from "./table.mjs";

/**
 * @param cases { name: async () => seconds of one unit of work }; the first is the baseline
 * @param rounds how often each is timed; warmUps rounds before that are not counted
 * @returns [{ name, per, cost }]: per, the median of its rounds; cost, what it takes more than the baseline's
 *   median, as a fraction of that
 */
export async function inTurns({ cases, rounds, warmUps = 1 }) {
  const taken = Object.fromEntries(Object.keys(cases).map((name) => [name, []]));
  for (let round = -warmUps; round < rounds; round++) {
    for (const [name, run] of Object.entries(cases)) {
      const seconds = await run();
      if (round >= 0) taken[name].push(seconds);
    }
  }
  const [baseline] = Object.values(taken);
  const plain = median(baseline);
  return Object.entries(taken).map(([name, seconds]) => {
    const per = median(seconds);
    return { name, per, cost: per / plain - 1 };
  });
}

/** "+12.5 %" of a cost of 0.125. */
export function percentText(cost, digits = 1) {
  const text = (100 * cost).toFixed(digits);
  return `${Number(text) > 0 ? "+" : ""}${Number(text) === 0 ? (0).toFixed(digits) : text} %`;
}
