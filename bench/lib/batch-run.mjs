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
import { median } from "./table.mjs";

const MOST_TRIES = 6;

export class BatchRunner {
  #model;
  #budget;
  #seed = 1;
  #plug = 24;

  /** budget: the model's tokenBudget, at least N times the prompt's length. */
  constructor(model, budget) {
    this.#model = model;
    this.#budget = budget;
  }

  /**
   * @param tokens N prompts of ids, all of one length
   * @param steps tokens each request generates after its first
   * @param programs N programs (or undefined: unsteered)
   * @returns { stepMs, submitMs, admitMs, promptMs, touched, tokens }: stepMs is a mean over the steps;
   *   submitMs and admitMs are a request's; touched is rows x operations counted where the arithmetic happens
   */
  async run({ tokens, steps, programs }) {
    if (tokens.length * tokens[0].length > this.#budget)
      throw new RangeError("the prompts do not fit one step: load with a larger tokenBudget");
    for (let tries = 1; ; tries++) {
      const answer = await this.#once(tokens, steps, programs);
      if (answer.late === 0) return answer;
      if (tries === MOST_TRIES)
        throw new Error(`requests did not decode together in ${tries} tries: ${answer.late} steps apart`);
      this.#plug = Math.min(this.#plug * 2, this.#budget, this.#model.info.contextLength - 2);
    }
  }

  async #once(tokens, steps, programs) {
    const model = this.#model;
    const stepsBefore = model.stats().steps;
    const options = { temperature: 0, ignoreEos: true, reusePrefix: false };
    const plug = model.generate(this.#plugPrompt(), { ...options, maxTokens: 1 });
    // The engine's thread wakes up and starts with the plug alone.
    await setTimeout(2);
    const submitted = [];
    const begin = performance.now();
    const answers = tokens.map((ids, i) => {
      const steering = programs?.[i];
      const answer = model.generate(Int32Array.from(ids), {
        ...options,
        maxTokens: steps + 1,
        ...(steering ? { steering } : {}),
      });
      submitted.push(performance.now());
      return answer;
    });
    const submitMs = (performance.now() - begin) / tokens.length;
    await plug;
    const results = await Promise.all(answers);
    const spans = results.map(({ timing }) => timing.generateMs);
    const started = results.map(({ timing }, i) => submitted[i] + timing.queuedMs);
    return {
      stepMs: median(spans) / steps,
      // The plug, the prompts, the tokens after the first.
      late: model.stats().steps - stepsBefore - (2 + steps),
      submitMs,
      admitMs: (Math.max(...started) - Math.min(...started)) / Math.max(1, tokens.length - 1),
      promptMs: median(results.map(({ timing }) => timing.promptMs)),
      touched: results.reduce((sum, { steering }) => sum + steering.reduce((n, each) => n + each.rows, 0), 0),
      tokens: results.map((result) => result.tokens),
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
