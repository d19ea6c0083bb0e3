// SPDX-License-Identifier: Apache-2.0
// Options of SteerModel: each mistake under its own name, before the engine hears of the call.
import { describe, expect, test } from "vitest";
import { compileLoad } from "../../src/model/load-options.ts";
import { encodePrompt, isPromptList } from "../../src/model/prompt.ts";
import {
  compileGenerate,
  compilePass,
  GENERATE_KEYS,
  openOptions,
  type RequestModel,
} from "../../src/model/request.ts";
import { usableCores } from "../../src/model/threads.ts";

const model: RequestModel = {
  name: "tiny",
  weightHash: "",
  strictVectors: false,
  layers: 2,
  sites: [0, 1].map((n) => ({ name: `layers.${n}`, path: `layers.${n}`, width: 4 })),
  vocabSize: 50,
  hiddenSize: 4,
  contextLength: 8,
  tokenizer: undefined,
  eosIds: [2],
};
const tokens = { tokens: [1, 5, 7] };

function failure(run: () => unknown) {
  try {
    run();
  } catch (error) {
    return error as Error & { code: string };
  }
  throw new Error("expected a refusal");
}

describe("generate options", () => {
  const open = (options: unknown) => openOptions<object>("generate", options, GENERATE_KEYS);
  const cases: [options: object, code: string, says: RegExp][] = [
    [{ temprature: 1 }, "ERR_OPTION_UNKNOWN", /did you mean "temperature"/],
    [{ max_tokens: 1 }, "ERR_OPTION_UNKNOWN", /maxTokens/],
    [{ maxTokens: -1 }, "ERR_ARGUMENT_RANGE", /maxTokens: expected an integer from 0/],
    [{ maxTokens: 1.5 }, "ERR_ARGUMENT_RANGE", /maxTokens/],
    [{ maxTokens: "9" }, "ERR_ARGUMENT_TYPE", /maxTokens/],
    [{ maxTokens: 4, minTokens: 5 }, "ERR_ARGUMENT_RANGE", /minTokens/],
    [{ temperature: -0.1 }, "ERR_ARGUMENT_RANGE", /temperature/],
    [{ temperature: Number.NaN }, "ERR_ARGUMENT_RANGE", /temperature/],
    [{ topP: 0 }, "ERR_ARGUMENT_RANGE", /topP: expected a finite number above 0 up to 1/],
    [{ topP: 1.1 }, "ERR_ARGUMENT_RANGE", /topP/],
    [{ minP: 2 }, "ERR_ARGUMENT_RANGE", /minP/],
    [{ topK: -1 }, "ERR_ARGUMENT_RANGE", /topK/],
    [{ repetitionPenalty: 0 }, "ERR_ARGUMENT_RANGE", /repetitionPenalty/],
    [{ seed: 2 ** 53 }, "ERR_ARGUMENT_RANGE", /seed/],
    [{ logitBias: { 50: 1 } }, "ERR_TOKEN_RANGE", /logitBias/],
    [{ logitBias: [1] }, "ERR_ARGUMENT_TYPE", /logitBias/],
    [{ stop: "" }, "ERR_ARGUMENT_TYPE", /stop/],
    [{ stop: ["a", 1] }, "ERR_ARGUMENT_TYPE", /stop\[1\]/],
    [{ stop: "x" }, "ERR_TOKENIZER_MISSING", /tokenizer/],
    [{ stopIds: [51] }, "ERR_TOKEN_RANGE", /stopIds\[0\]/],
    [{ ignoreEos: 1 }, "ERR_ARGUMENT_TYPE", /ignoreEos/],
    [{ logprobs: -1 }, "ERR_ARGUMENT_RANGE", /logprobs/],
    [{ signal: {} }, "ERR_ARGUMENT_TYPE", /AbortSignal/],
    [{ capture: {} }, "ERR_ARGUMENT_TYPE", /capture.sites/],
    [{ capture: { sites: [2] } }, "ERR_LAYER_RANGE", /capture.sites\[0\]/],
    [{ capture: { sites: [0], pool: "max" } }, "ERR_ARGUMENT_TYPE", /pool/],
    [{ capture: { sites: [0], sties: 1 } }, "ERR_OPTION_UNKNOWN", /sites/],
    [{ steering: [{ layer: 5, vector: [1, 2, 3, 4] }] }, "ERR_LAYER_RANGE", /steering\[0\]/],
  ];
  test.each(cases)("%j", (options, code, says) => {
    const error = failure(() => compileGenerate(model, tokens, open(options)));
    expect(error.code).toBe(code);
    expect(error.message).toMatch(says);
  });

  test("an aborted signal comes before every other complaint, with its own reason", () => {
    const reason = new Error("enough");
    expect(failure(() => open({ signal: AbortSignal.abort(reason), nonsense: 1 }))).toBe(reason);
  });

  test("defaults: greedy, the model's own end, 128 tokens", () => {
    const { native } = compileGenerate(model, tokens, {});
    expect(native).toMatchObject({ maxTokens: 128, minTokens: 0, logprobs: -1, logits: "none" });
    expect(native.sampling).toMatchObject({
      temperature: 0,
      topK: 0,
      topP: 1,
      minP: 0,
      repetitionPenalty: 1,
    });
    expect(Array.from(native.stopIds)).toEqual([2]);
  });

  test("ignoreEos keeps the caller's own stop ids", () => {
    const { native } = compileGenerate(model, tokens, { ignoreEos: true, stopIds: [9] });
    expect(Array.from(native.stopIds)).toEqual([9]);
  });

  test("a seed that was not given is drawn anew each time", () => {
    const seed = () => compileGenerate(model, tokens, {}).native.sampling.seed;
    expect(seed()).not.toBe(seed());
  });

  test("a pass over the prompt generates nothing and stops at nothing", () => {
    const { native } = compilePass(model, tokens, {}, { logits: "all", promptLogprobs: true });
    expect(native).toMatchObject({ maxTokens: 0, logits: "all", promptLogprobs: true });
    expect(native.stopIds).toHaveLength(0);
  });

  test("a site captured twice is read once", () => {
    const { native } = compileGenerate(model, tokens, { capture: { sites: [1, -1, "layers.1", 0] } });
    expect(native.captures.map((c) => c.site)).toEqual(["layers.1", "layers.0"]);
  });
});

describe("prompts", () => {
  const cases: [prompt: unknown, code: string, says: RegExp][] = [
    ["", "ERR_TOKENIZER_MISSING", /no tokenizer/],
    [[], "ERR_PROMPT_EMPTY", /at least one token/],
    [{ tokens: [] }, "ERR_PROMPT_EMPTY", /at least one token/],
    [new Int32Array(0), "ERR_PROMPT_EMPTY", /at least one token/],
    [[50], "ERR_TOKEN_RANGE", /prompt\[0\].*0 up to 49.*50/],
    [{ tokens: [1, -1] }, "ERR_TOKEN_RANGE", /tokens\[1\]/],
    [[1.5], "ERR_TOKEN_RANGE", /1.5/],
    [new Int32Array(9), "ERR_PROMPT_TOO_LONG", /at most 8 tokens.*9/],
    [{ tokens: [1], extra: 1 }, "ERR_OPTION_UNKNOWN", /extra/],
    [null, "ERR_ARGUMENT_TYPE", /string, messages/],
    [{ promptEmbeddings: new Float32Array(8), shape: [2, 3] }, "ERR_EMBEDDING_SHAPE", /\[tokens, 4\]/],
    [{ promptEmbeddings: new Float32Array(0), shape: [0, 4] }, "ERR_PROMPT_EMPTY", /at least one/],
    [{ promptEmbeddings: [1], shape: [1, 1] }, "ERR_ARGUMENT_TYPE", /Float32Array/],
    [{ promptEmbeddings: Float32Array.of(1, NaN, 0, 0), shape: [1, 4] }, "ERR_VECTOR_NOT_FINITE", /NaN/],
  ];
  test.each(cases)("%j", (prompt, code, says) => {
    const error = failure(() => encodePrompt(prompt, model));
    expect(error.code).toBe(code);
    expect(error.message).toMatch(says);
  });

  test("embeddings take the place of tokens, row by row", () => {
    const prompt = encodePrompt({ promptEmbeddings: new Float32Array(8).fill(0.5), shape: [2, 4] }, model);
    expect(prompt.tokens).toHaveLength(2);
    expect(Array.from(prompt.embeddingRows!)).toEqual([0, 1]);
  });

  test("one prompt and a list of them are told apart", () => {
    expect(isPromptList(["a", "b"])).toBe(true);
    expect(isPromptList([[1, 2], [3]])).toBe(true);
    expect(isPromptList([[{ role: "user", content: "x" }]])).toBe(true);
    expect(isPromptList([{ tokens: [1] }])).toBe(true);
    expect(isPromptList([1, 2])).toBe(false);
    expect(isPromptList([{ role: "user", content: "x" }])).toBe(false);
    expect(isPromptList("text")).toBe(false);
  });
});

describe("load options", () => {
  const cases: [options: unknown, code: string, says: RegExp][] = [
    [{ devce: "cpu" }, "ERR_OPTION_UNKNOWN", /did you mean "device"/],
    [{ device: "gpu" }, "ERR_ARGUMENT_TYPE", /"cpu" or "cuda:N"/],
    [{ dtype: "float64" }, "ERR_ARGUMENT_TYPE", /"float32"/],
    [{ threads: 0 }, "ERR_ARGUMENT_RANGE", /threads/],
    [{ tokenBudget: 0 }, "ERR_ARGUMENT_RANGE", /tokenBudget/],
    [{ onProgress: 1 }, "ERR_ARGUMENT_TYPE", /function/],
    ["cpu", "ERR_ARGUMENT_TYPE", /options/],
  ];
  test.each(cases)("%j", (options, code, says) => {
    const error = failure(() => compileLoad(options));
    expect(error.code).toBe(code);
    expect(error.message).toMatch(says);
  });

  test("threads default to the cores this process may use", () => {
    expect(compileLoad({}).native.threads).toBe(usableCores());
    expect(usableCores()).toBeGreaterThan(0);
  });
});
