// SPDX-License-Identifier: Apache-2.0
// The comparisons a table is computed from: gathered case by case, kept beside the table, added to by a later run.
import { readResult } from "./report.mjs";

/** Of a comparison (lib/alternate.mjs); further ones of a case are named by its caller. */
const FIELDS = ["a", "b", "cpuA", "cpuB", "idleUs", "activeUs"];

/**
 * Runs whichever case has had least until the time is over: a run that is cut short has the same of each.
 * SIGINT and SIGTERM end it after the run at hand, with what there is.
 * @param cases { name: { run: async () => samples, length } }: length is how many samples a run brings
 * @param have { name: samples } that is added to
 * @param seconds for all; a case whose longest run so far does not fit any more is left out, one that has
 *   nothing yet never is
 * @param onRun (name, have) => void
 */
export async function gather({ cases, have, seconds, onRun }) {
  const begin = performance.now();
  const left = () => seconds - (performance.now() - begin) / 1000;
  const took = {};
  const runs = (name) => (have[name] ?? []).length / cases[name].length;
  const signals = ["SIGINT", "SIGTERM"];
  let stopped = false;
  const stop = () => {
    stopped = true;
  };
  for (const signal of signals) process.once(signal, stop);
  try {
    while (!stopped) {
      const names = Object.keys(cases).filter((name) => runs(name) === 0 || left() > (took[name] ?? 0));
      if (names.length === 0) return;
      const least = names.reduce((a, b) => (runs(b) < runs(a) ? b : a));
      const start = performance.now();
      const samples = await cases[least].run();
      took[least] = Math.max(took[least] ?? 0, (performance.now() - start) / 1000);
      have[least] = [...(have[least] ?? []), ...samples];
      onRun?.(least, have);
    }
  } finally {
    for (const signal of signals) process.removeListener(signal, stop);
  }
}

/** As text, a line a case: what stands in bench/results. */
export function packed(settings, have, further = []) {
  const fields = [...FIELDS, ...further];
  const line = (sample) => fields.map((field) => Number(sample[field].toPrecision(6))).join(" ");
  return {
    settings,
    fields: fields.join(" "),
    cases: Object.fromEntries(
      Object.entries(have).map(([name, samples]) => [name, samples.map(line).join("; ")]),
    ),
  };
}

export function unpacked({ cases, fields }) {
  const names = fields.split(" ");
  const sample = (line) => Object.fromEntries(line.split(" ").map((value, i) => [names[i], Number(value)]));
  return Object.fromEntries(
    Object.entries(cases).map(([name, text]) => [name, text === "" ? [] : text.split("; ").map(sample)]),
  );
}

/**
 * The samples of a kept result, to go on with; none where nothing of the kind was kept.
 * @throws Error when they were measured otherwise
 */
export function kept(name, settings, read = readResult) {
  let samples;
  try {
    ({ samples } = read(name));
  } catch (error) {
    if (error.code !== "ENOENT") throw error;
  }
  if (!samples) return {};
  const [was, is] = [samples.settings, settings].map((each) => JSON.stringify(each));
  if (was !== is) throw new Error(`--add: ${name} was measured as ${was}, this run is ${is}`);
  return unpacked(samples);
}
