// SPDX-License-Identifier: Apache-2.0
// Steps of one run against steps of the same run. Requests decode in lockstep and something (steering, a
// capture) acts on some of their generated tokens and not on others, by its own scope; so every step with it
// (B) has neighbours without it (A) that lie a tenth of a second away, in the same process, with the same
// requests and the same context. Where whole runs of a second are compared, a neighbour on the machine who
// comes or goes in between is most of the difference; here he has to come or go within four steps.
//
// The letters alternate, A B A B ..., and which comes first is drawn for each run. Every step but the first and the last
// is compared with the two beside it, which have the other letter: B / (geometric mean of the As), and for an A
// the other way round. So what grows evenly (the context does) cancels, a slow spell counts only where it comes
// and goes, and nothing leans to one side: a median of B's comparisons alone would, since what disturbs only
// ever slows down. What is reported is the median of these ratios on two clocks, the wall's and that of all the
// process's threads, with a 95 % interval: a bootstrap of stretches of four, because neighbouring ratios share steps.
//
// Why not quadruples A B B A: on the same unsteered steps (128 of batch 32, letters drawn 400 times) the medians of
// their ratios scattered by 1.3 % on either clock, of these by 0.9 % and 0.4 %. What B leaves to the next step to pay
// is charged to A here; where there is such a thing (captures that are streamed) a letter is a block of steps.
// Times are the engine's own: the ends of its steps (profileSteps() of the addon).
import { seeded } from "./paired.mjs";

/** Columns of profileSteps() before the operators. */
const LEADING = 3;

/** Neighbouring ratios share steps: the bootstrap takes this many at a time. */
export const STRETCH = 4;

/**
 * Which of `cells` x `block` steps are B: every other cell, the first by draw.
 * @param cells an odd number of 3 or more: as many comparisons start from one letter as from the other, or one less
 * @returns [steps] booleans
 */
export function letters({ cells, block = 1, seed = 1 }) {
  const random = seeded(seed);
  // The first draws of neighbouring seeds are alike.
  for (let i = 0; i < 8; i++) random();
  const first = random() < 0.5;
  return Array.from({ length: cells * block }, (_, i) => (Math.floor(i / block) % 2 === 0) === first);
}

/** The B steps as [start, end) ranges of positions, step 0 lying at position `first`. */
export function rangesOf(steps, first) {
  const ranges = [];
  steps.forEach((active, i) => {
    if (!active) return;
    if (i > 0 && steps[i - 1]) ranges.at(-1)[1] = first + i + 1;
    else ranges.push([first + i, first + i + 1]);
  });
  return ranges;
}

/**
 * The last `count` steps of a profile, each of `rows` rows.
 * @param marks profileSteps()
 * @param operators names, in the order of profile()
 * @returns [count] of { ms, cpuMs, us }: from the end of the step before to its own; `us` by operator
 * @throws Error when a step is missing or has other rows: then the requests were not in lockstep
 */
export function stepsOf(marks, operators, { count, rows }) {
  const width = LEADING + operators.length;
  const all = marks.length / width;
  if (!Number.isInteger(all) || all < count + 1)
    throw new Error(`expected ${count + 1} steps or more of ${width} figures, got ${marks.length} figures`);
  const at = (step, column) => marks[step * width + column];
  return Array.from({ length: count }, (_, i) => {
    const step = all - count + i;
    if (at(step, 0) !== rows)
      throw new Error(`step ${i} of ${count} had ${at(step, 0)} rows, expected ${rows}`);
    const since = (column) => at(step, column) - at(step - 1, column);
    return {
      ms: since(1) / 1e6,
      cpuMs: since(2) / 1e6,
      us: Object.fromEntries(operators.map((name, o) => [name, since(LEADING + o) / 1000])),
    };
  });
}

/**
 * Each inner cell beside its two neighbours.
 * @param values [cells] of one clock, larger than 0
 * @param active [cells] alternating
 * @returns [cells - 2] of { a, b }: the cell, and the geometric mean of those beside it
 */
export function contrasts(values, active) {
  if (values.length !== active.length || values.length < 3)
    throw new Error(`${values.length} values and ${active.length} letters: expected three or more of each`);
  return values.slice(1, -1).map((own, i) => {
    if (active[i] === active[i + 1] || active[i + 2] === active[i + 1])
      throw new Error(`letters ${i} to ${i + 2} do not alternate`);
    const beside = Math.sqrt(values[i] * values[i + 2]);
    return active[i + 1] ? { a: beside, b: own } : { a: own, b: beside };
  });
}

/**
 * The comparisons of one run, as kept in results: milliseconds and microseconds a step.
 * @param steps stepsOf()
 * @param lines operators whose own time is what acts
 * @returns [cells - 2] of { a, b, cpuA, cpuB, idleUs, activeUs }: wall and processor time of a step without and
 *   with, and what `lines` took in either
 */
export function samplesOf(steps, active, { lines, block = 1 }) {
  const cells = Array.from({ length: steps.length / block }, (_, i) =>
    steps.slice(i * block, (i + 1) * block),
  );
  const letter = cells.map((_, i) => active[i * block]);
  const of = (value) =>
    contrasts(
      cells.map((cell) => cell.reduce((sum, step) => sum + value(step), 0) / block),
      letter,
    );
  const wall = of(({ ms }) => ms);
  const cpu = of(({ cpuMs }) => cpuMs);
  const direct = of(({ us }) => lines.reduce((sum, line) => sum + us[line], 0));
  return wall.map(({ a, b }, i) => ({
    ...{ a, b, cpuA: cpu[i].a, cpuB: cpu[i].b },
    ...{ idleUs: direct[i].a, activeUs: direct[i].b },
  }));
}

export const wallRatios = (samples) => samples.map(({ a, b }) => b / a);
export const cpuRatios = (samples) => samples.map(({ cpuA, cpuB }) => cpuB / cpuA);
/** The operators' own time in steps with it, of the step. */
export const shares = (samples) => samples.map(({ b, activeUs }) => activeUs / 1000 / b);
