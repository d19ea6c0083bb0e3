// SPDX-License-Identifier: Apache-2.0
// Runs in which every other step, or every other block of steps, is captured, and how the rows leave.
//
// Rows that are kept ("memory"), reduced to a mean, or written to a file at the end of a run are paid for in the
// step that makes them, up to what the end costs, which is told apart (lib/profiled.mjs, `tail`). Rows that
// leave while the run goes on are dealt with by another thread during the steps that follow: there a letter is
// a block of steps, a chunk holds the rows of one block, and half a block is captured before the first letter, so
// that each chunk is sent in the middle of a captured block and dealt with before its end.
import { rmSync, statSync } from "node:fs";
import { letters, rangesOf, samplesOf, stepsOf } from "./alternate.mjs";
import { profiled } from "./profiled.mjs";

/** Steps after joining that are not looked at. */
const SETTLE = 2;
/** Steps of a letter where rows leave during the run. */
export const BLOCK = 2;

/**
 * @param model loaded with tokenBudget `chunk`
 * @param runner BatchRunner that profiles
 * @param target path of files without an extension
 */
export class CaptureRuns {
  #given;
  #seed = 1;

  constructor({ model, addon, runner, target, chunk }) {
    const operators = addon.profile("read").map(({ operator }) => operator);
    this.#given = { model, addon, runner, operators, target, chunk };
    const { layers, hiddenSize } = model.info;
    this.sites = Array.from({ length: layers }, (_, layer) => layer);
    this.rowBytes = layers * hiddenSize * 4;
  }

  /** Steps of a letter. */
  block(how, prefill) {
    return how === "stream" || (prefill && how.startsWith("file")) ? BLOCK : 1;
  }

  /**
   * Requests that generate.
   * @param how "none", "memory", "mean", "stream", "file safetensors", "file arrow"
   * @returns samples (lib/alternate.mjs) with { tailMs, tailCpuMs, mb } of their run
   */
  decode(how, tokens, cells) {
    const block = this.block(how, false);
    const first = tokens[0].length + SETTLE;
    const shape = { block, cells, requests: tokens.length, rows: tokens.length, first, unit: 1 };
    return this.#measured(how, shape, (active, options) => {
      const { model, runner } = this.#given;
      const steps = SETTLE + active.length;
      if (!how.startsWith("file")) {
        return runner.run({ tokens, steps, more: () => (how === "none" ? {} : { capture: options() }) });
      }
      return runner.run({
        ...{ tokens, steps },
        launch: (given) => this.#file(model, how, tokens, { ...given, ...options() }),
      });
    });
  }

  /** One prompt, in steps of `chunk` tokens, SETTLE more than there are letters. */
  prefill(how, ids, cells) {
    const { model, addon, chunk } = this.#given;
    const block = this.block(how, true);
    const first = SETTLE * chunk;
    const tokens = Int32Array.from(ids.slice(0, (SETTLE + cells * block) * chunk));
    const shape = { block, cells, requests: 1, rows: chunk, first, unit: chunk };
    return this.#measured(how, shape, (_, options) =>
      profiled(addon, async () => {
        if (how.startsWith("file"))
          return this.#file(model, how, [tokens], { reusePrefix: false, ...options() });
        const capture = how === "none" ? {} : { capture: options() };
        return { results: [await model.forward(tokens, { reusePrefix: false, logits: "none", ...capture })] };
      }),
    );
  }

  async #measured(how, { block, cells, requests, rows, first, unit }, run) {
    const { operators } = this.#given;
    const active = letters({ cells, block, seed: this.#seed++ });
    const ranges = rangesOf(active, 0).map(([start, end]) => [first + start * unit, first + end * unit]);
    // The half block before the letters, where rows leave in between.
    const before = Math.min(SETTLE, block >> 1);
    if (before > 0) ranges.unshift([first - before * unit, first]);
    let bytes = 0;
    const onRows = (sites) => {
      for (const { data } of Object.values(sites)) bytes += data.byteLength;
    };
    const options = () => {
      bytes = 0;
      return {
        ...{ sites: this.sites, positions: ranges },
        ...(how === "mean" ? { pool: "mean" } : {}),
        ...(how === "stream" ? { onRows } : {}),
        ...(block > 1 ? { chunkBytes: block * unit * this.rowBytes } : {}),
      };
    };
    const { marks, tail, results = [] } = await run(active, options);
    for (const { captures } of results)
      for (const { data } of Object.values(captures ?? {})) bytes += data.byteLength;
    if (how.startsWith("file")) bytes = this.#written(how);
    // Nothing may be missing, nothing more than was asked for.
    const captured = (active.filter(Boolean).length + before) * rows * this.rowBytes;
    const wanted = how === "none" ? 0 : how === "mean" ? requests * this.rowBytes : captured;
    if (how.startsWith("file") ? bytes < wanted : bytes !== wanted)
      throw new Error(`${how}: ${bytes} bytes came, expected ${wanted}`);
    const steps = stepsOf(marks, operators, { count: active.length, rows });
    const width = 3 + operators.length;
    const end = marks.subarray(marks.length - width);
    const once = {
      tailMs: (tail.wall - end[1]) / 1e6,
      tailCpuMs: (tail.cpu - end[2]) / 1e6,
      mb: captured / 1e6,
    };
    return samplesOf(steps, active, { lines: ["steer", "tables"], block }).map((sample) => ({
      ...sample,
      ...once,
    }));
  }

  #path(how) {
    return `${this.#given.target}.${how.slice(5)}`;
  }

  async #file(model, how, tokens, options) {
    await model.captureToFile(this.#path(how), tokens, options);
  }

  #written(how) {
    const { size } = statSync(this.#path(how));
    rmSync(this.#path(how));
    return size;
  }
}
