// SPDX-License-Identifier: Apache-2.0
// RULER prompts answered by a model in this process, steered or not.

import { createHash } from "node:crypto";
import type { SteerModel } from "../../model/steer-model.ts";
import type { SteeringOperation, SteeringProgram } from "../../steering/program.ts";
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
  return program.map((operation) => ({
    ...operation,
    vector: describeVector(operation.vector),
    ...(operation.to === undefined ? {} : { to: describeVector(operation.to) }),
    ...(operation.gate === undefined
      ? {}
      : { gate: { ...operation.gate, direction: describeVector(operation.gate.direction) } }),
  }));
}

function describeVector(vector: SteeringOperation["vector"]): { name?: string; sha256: string } {
  const hash = createHash("sha256");
  if (!(vector instanceof SteeringVector)) {
    hash.update(
      bytesOf(
        Float32Array.from([...vector].flatMap((part) => (typeof part === "number" ? part : [...part]))),
      ),
    );
    return { sha256: hash.digest("hex") };
  }
  for (const site of vector.sites) {
    hash.update(site);
    hash.update(bytesOf(vector.at(site)));
  }
  return { name: vector.name, sha256: hash.digest("hex") };
}

function bytesOf(values: Float32Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}
