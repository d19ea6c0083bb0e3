// SPDX-License-Identifier: Apache-2.0
// A run of which every other step is steered, and short whole runs with a program that never acts (bench/programs.mjs).
import { letters, rangesOf, samplesOf, stepsOf } from "./alternate.mjs";
import { checkRows } from "./batch-run.mjs";

/** What steering takes by the engine's own counters. */
const LINES = ["steer", "tables"];
/** Steps after joining that are not looked at. */
const SETTLE = 2;
const IDLE_SETTLE = 6;
/** Whole runs that price a program which never acts, and the steps of each. */
export const IDLE_RUNS = 5;
const IDLE_STEPS = 6;
const NEVER = [[1_000_000, 1_000_001]];

/**
 * One run: its comparisons.
 * @param runner BatchRunner that profiles
 * @param operators names, in the order of the addon's profile()
 * @param tokens N prompts of one length
 * @param cells steps of the run
 * @param programs N programs without scopes, or undefined: the letters alone
 * @returns [cells - 2] samples (lib/alternate.mjs) with the run's { submitMs, admitMs }
 * @throws Error when an operation touched other rows than those of the B steps
 */
export async function steeredSteps({ runner, operators, tokens, cells, programs, seed }) {
  const active = letters({ cells, seed });
  const positions = rangesOf(active, tokens[0].length + SETTLE);
  const steps = SETTLE + active.length;
  const answer = await runner.run({ tokens, steps, programs: programs && scoped(programs, positions) });
  checkRows(answer, programs, active.filter(Boolean).length);
  const each = stepsOf(answer.marks, operators, { count: active.length, rows: tokens.length });
  const { submitMs, admitMs } = answer;
  return samplesOf(each, active, { lines: LINES }).map((sample) => ({ ...sample, submitMs, admitMs }));
}

/** Whole runs in turns: with a program that acts on none of their tokens (B), and with none (A). */
export async function idleRuns({ runner, operators, tokens, program, seed }) {
  const programs = scoped(new Array(tokens.length).fill(program), NEVER);
  const active = letters({ cells: IDLE_RUNS, block: IDLE_STEPS, seed });
  const steps = [];
  for (let i = 0; i < active.length; i += IDLE_STEPS) {
    const given = active[i] ? programs : undefined;
    const answer = await runner.run({ tokens, steps: IDLE_SETTLE + IDLE_STEPS, programs: given });
    checkRows(answer, given, 0);
    steps.push(...stepsOf(answer.marks, operators, { count: IDLE_STEPS, rows: tokens.length }));
  }
  const samples = samplesOf(steps, active, { lines: LINES, block: IDLE_STEPS });
  return samples.map((sample) => ({ ...sample, submitMs: 0, admitMs: 0 }));
}

/** Equal programs stay one object: they cost the caller what they cost him otherwise. */
function scoped(programs, positions) {
  const made = new Map();
  return programs.map((program) => {
    if (!made.has(program))
      made.set(
        program,
        program.map((operation) => ({ ...operation, scope: { positions } })),
      );
    return made.get(program);
  });
}
