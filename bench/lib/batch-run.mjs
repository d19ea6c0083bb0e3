// SPDX-License-Identifier: Apache-2.0
// The time of a decode step of our engine with N requests, each with its program, all of them in every step.
//
// Requests submitted one after the other would join at different steps, and a rate taken over that mixes batch
// sizes. So a plug goes in first: a prompt long enough that its prefill is still running when the last of the
// N has been submitted. They wait, join together, read their prompts in one step (the model is loaded with a
// token budget that allows it) and generate in lockstep. Whether they did is checked by the engine's count of
// steps, which is larger when one joined late. Then the plug is lengthened and the run repeated.
//
// What is left out of the step time, and told separately: making vectors (the caller's), checking and
// copying programs in JavaScript (submitMs), compiling them on the engine's thread (admitMs).
import { setTimeout } from "node:timers/promises";
import { profiled } from "./profiled.mjs";
import { median } from "./table.mjs";

const MOST_TRIES = 6;

/**
 * What was not applied would be cheap.
 * @param answer { applied: [request][operation] rows }
 * @param programs of the requests; undefined: none has one
 * @param expected rows each operation has to have touched
 * @throws Error at the first request with other rows
 */
export function checkRows({ applied }, programs, expected) {
  applied.forEach((rows, request) => {
    const operations = programs?.[request].length ?? 0;
    if (rows.length !== operations || rows.some((count) => count !== expected))
      throw new Error(
        `request ${request}: rows touched ${rows}, expected ${expected} by each of ${operations}`,
      );
  });
}

export class BatchRunner {
  #model;
  #budget;
  #addon;
  #seed = 1;
  #plug = 24;

  /**
   * budget: the model's tokenBudget, at least N times the prompt's length. addon: given, each run is profiled
   * (lib/profiled.mjs) and its answer has what that adds.
   */
  constructor(model, budget, addon) {
    this.#model = model;
    this.#budget = budget;
    this.#addon = addon;
  }

  /**
   * @param tokens N prompts of ids, all of one length
   * @param steps tokens each request generates after its first
   * @param programs N programs (or undefined: unsteered)
   * @param more () => further options of generate(), asked at each try
   * @param launch in place of generate(): starts all N with the options it is given, resolves when they are done
   * @returns { stepMs, submitMs, admitMs, promptMs, applied, touched, tokens, results }: stepMs is a mean over the
   *   steps; submitMs and admitMs are a request's; touched is rows x operations counted where the arithmetic
   *   happens, applied the rows by request and operation. After a launch nothing of it.
   */
  async run({ tokens, steps, ...how }) {
    if (tokens.length * tokens[0].length > this.#budget)
      throw new RangeError("the prompts do not fit one step: load with a larger tokenBudget");
    for (let tries = 1; ; tries++) {
      const before = this.#model.stats().steps;
      const once = () => this.#once(tokens, steps, how);
      const answer = await (this.#addon ? profiled(this.#addon, once) : once());
      // The plug, the prompts, the tokens after the first.
      const late = this.#model.stats().steps - before - (2 + steps);
      if (late === 0 && this.#together(answer, tokens.length, steps)) return answer;
      if (tries === MOST_TRIES)
        throw new Error(`requests did not decode together in ${tries} tries: ${late} steps apart`);
      this.#plug = Math.min(this.#plug * 2, this.#budget, this.#model.info.contextLength - 2);
    }
  }

  /** Some may have joined the plug's own step and others come one later: then the count is right all the same. */
  #together({ marks }, rows, steps) {
    if (!marks) return true;
    // The plug, the prompts, the tokens after the first: as many marks as steps.
    const width = marks.length / (2 + steps);
    for (let step = 2; step < 2 + steps; step++) if (marks[step * width] !== rows) return false;
    return true;
  }

  async #once(tokens, steps, { programs, more, launch }) {
    const model = this.#model;
    const options = { temperature: 0, ignoreEos: true, reusePrefix: false };
    const plug = model.generate(this.#plugPrompt(), { ...options, maxTokens: 1 });
    // The engine's thread wakes up and starts with the plug alone.
    await setTimeout(2);
    if (launch) {
      await Promise.all([plug, launch({ ...options, maxTokens: steps + 1 })]);
      return {};
    }
    const further = more?.();
    const submitted = [];
    const begin = performance.now();
    const answers = tokens.map((ids, i) => {
      const steering = programs?.[i];
      const answer = model.generate(Int32Array.from(ids), {
        ...options,
        ...further,
        maxTokens: steps + 1,
        ...(steering ? { steering } : {}),
      });
      submitted.push(performance.now());
      return answer;
    });
    const submitMs = (performance.now() - begin) / tokens.length;
    await plug;
    const results = await Promise.all(answers);
    const applied = results.map(({ steering }) => steering.map(({ rows }) => rows));
    const spans = results.map(({ timing }) => timing.generateMs);
    const started = results.map(({ timing }, i) => submitted[i] + timing.queuedMs);
    return {
      stepMs: median(spans) / steps,
      submitMs,
      admitMs: (Math.max(...started) - Math.min(...started)) / Math.max(1, tokens.length - 1),
      promptMs: median(results.map(({ timing }) => timing.promptMs)),
      applied,
      touched: applied.flat().reduce((sum, rows) => sum + rows, 0),
      tokens: results.map((result) => result.tokens),
      results,
    };
  }

  #plugPrompt() {
    const vocab = Math.min(this.#model.info.vocabSize - 3, 20_000);
    return Int32Array.from({ length: this.#plug }, () => {
      this.#seed = (Math.imul(this.#seed, 1664525) + 1013904223) >>> 0;
      return 3 + (this.#seed % vocab);
    });
  }
}
