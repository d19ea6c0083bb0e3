// SPDX-License-Identifier: Apache-2.0
// RULER prompts answered by a model in this process, steered or not.

import { createHash } from "node:crypto";
import type { SteerModel } from "../../model/steer-model.ts";
import type { SteeringProgram } from "../../steering/program.ts";
import { SteeringVector } from "../../steering/vector.ts";
import type { Generator } from "../run.ts";

export interface SteerModelGeneratorOptions {
  readonly steering?: SteeringProgram;
  /** Prompts that run together. Default 8. */
  readonly batch?: number;
  /** Ask in the model's own chat format, the answer prefix as the beginning of its turn. */
  readonly chat?: boolean;
  /** Put the model's beginning-of-sequence token first. Default true, as the model's tokenizer says. */
  readonly addSpecialTokens?: boolean;
}

/** Greedy answers of a loaded model. The caller disposes of the model. */
export function steerModelGenerator(model: SteerModel, options: SteerModelGeneratorOptions = {}): Generator {
  const { steering, batch = 8, chat = false, addSpecialTokens } = options;
  const run = {
    temperature: 0,
    ...(steering && steering.length > 0 ? { steering } : {}),
  };
  const special = addSpecialTokens === undefined ? {} : { addSpecialTokens };
  return {
    identity: {
      kind: "model",
      model: model.info.name,
      weights: model.info.weightHash,
      steering: describeProgram(steering ?? []),
      chat,
    },
    batch,
    concurrency: 1,
    async generate(prompts, { maxTokens, signal }) {
      if (chat)
        return Promise.all(
          prompts.map(async ({ input, answerPrefix }) => {
            const prefill = answerPrefix.trim();
            const message = { role: "user" as const, content: input };
            return (await model.chat([message], { ...run, maxTokens, signal, prefill })).text;
          }),
        );
      const texts = prompts.map((prompt) => prompt.text);
      const results = await model.generate(texts, { ...run, ...special, maxTokens, signal });
      return results.map((result) => result.text);
    },
  };
}

/** A program as data: vectors by name and hash. */
export function describeProgram(program: SteeringProgram): Array<Record<string, unknown>> {
  return program.map(({ vector, ...operation }) => {
    const named = vector instanceof SteeringVector ? { name: vector.name } : {};
    const hash = createHash("sha256");
    if (vector instanceof SteeringVector)
      for (const site of vector.sites) {
        hash.update(site);
        hash.update(bytesOf(vector.at(site)));
      }
    else hash.update(bytesOf(Float32Array.from(vector)));
    return { ...operation, vector: { ...named, sha256: hash.digest("hex") } };
  });
}

function bytesOf(values: Float32Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}
