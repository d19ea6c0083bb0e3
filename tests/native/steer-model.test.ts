// SPDX-License-Identifier: Apache-2.0
// The promises of SteerModel on a real (small) model: identity, proof, no cross-talk, the same answer
// streamed and whole, alone and in a batch, captures without a lost row, clean ends.
import { getEventListeners } from "node:events";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { AppliedOperation, GenerateResult } from "../../src/model/results.ts";
import { SteerModel } from "../../src/model/steer-model.ts";
import { SteeringVector } from "../../src/steering/vector.ts";
import { Deviation } from "./golden.ts";

const PROMPT = "Once upon a time";
const wave = (seed: number) => Float32Array.from({ length: 64 }, (_, i) => Math.sin(seed + i * 1.7));
const STEER = [{ layer: 2, vector: wave(1), scale: 1.5 }];

let model: SteerModel;
beforeAll(async () => {
  model = await SteerModel.load("stories260k", { device: "cpu" });
});
afterAll(() => model?.dispose());

const ids = (result: GenerateResult) => Array.from(result.tokens);
/** Rows an operation acted on, now or when the prefix that was reused was computed. */
const acted = ({ rows, reusedRows }: AppliedOperation) => rows + reusedRows;

describe("identity", () => {
  const nothing = {
    "no program": {},
    "an empty program": { steering: [] },
    "scale 0": { steering: [{ layer: 2, vector: wave(1), scale: 0 }] },
    "ablate with scale 1": { steering: [{ layer: 2, op: "ablate" as const, vector: wave(1), scale: 1 }] },
    "a scope that selects nothing": { steering: [{ ...STEER[0]!, scope: { positions: [] } }] },
    "a program on generated rows": { steering: [{ ...STEER[0]!, scope: { phase: "generation" as const } }] },
  };
  test.each(Object.keys(nothing))("%s: logits bit-identical to the plain run", async (name) => {
    const plain = await model.forward(PROMPT, { logits: "all" });
    const other = await model.forward(PROMPT, { logits: "all", ...nothing[name as keyof typeof nothing] });
    expect(Buffer.from(other.logits.buffer).equals(Buffer.from(plain.logits.buffer))).toBe(true);
  });

  test("a steered run leaves nothing behind", async () => {
    const before = await model.generate(PROMPT, { maxTokens: 40 });
    const steered = await model.generate(PROMPT, { maxTokens: 40, steering: STEER });
    const after = await model.generate(PROMPT, { maxTokens: 40 });
    expect(ids(steered)).not.toEqual(ids(before));
    expect(ids(after)).toEqual(ids(before));
  });
});

describe("proof", () => {
  test("every row is counted, with the size of the change", async () => {
    const { steering, warnings, usage } = await model.generate(PROMPT, {
      maxTokens: 20,
      ignoreEos: true,
      steering: STEER,
      reusePrefix: false,
    });
    expect(steering).toHaveLength(1);
    expect(steering[0]).toMatchObject({
      operation: 0,
      site: "layers.2",
      op: "add",
      rows: usage.promptTokens + 19,
    });
    const asked = 1.5 * Math.hypot(...wave(1));
    expect(Math.abs(steering[0]!.meanChangeNorm / asked - 1)).toBeLessThan(1e-5);
    expect(warnings).toEqual([]);
  });

  test("an operation that touched nothing is named", async () => {
    const scope = { phase: "generation" as const };
    const { steering, warnings } = await model.forward(PROMPT, { steering: [{ ...STEER[0]!, scope }] });
    expect(steering[0]!.rows).toBe(0);
    expect(warnings[0]).toMatch(/steering\[0\] \(add at layers.2\) touched no row/);
  });

  test("scopes select the rows they say", async () => {
    const rows = async (scope: object) => {
      const options = { maxTokens: 10, ignoreEos: true, steering: [{ ...STEER[0]!, scope }] };
      return acted((await model.generate(PROMPT, options)).steering[0]!);
    };
    const prompt = model.tokenizer!.encode(PROMPT).length;
    expect(await rows({ phase: "prompt" })).toBe(prompt);
    expect(await rows({ phase: "generation" })).toBe(9);
    expect(await rows({ first: 3 })).toBe(3);
    expect(await rows({ after: 4 })).toBe(5);
    expect(await rows({ after: 2, first: 5 })).toBe(3);
    expect(await rows({ positions: [0, [-2, 0]] })).toBe(3);
    expect(await rows({ phase: "all", after: 100 })).toBe(prompt);
    expect(await rows({ tokenIds: [1] })).toBeGreaterThanOrEqual(1);
  });

  test("captured(steered) - captured(plain) is scale times the vector", async () => {
    const capture = { sites: [2] };
    const plain = (await model.forward(PROMPT, { capture })).captures["layers.2"]!;
    const steered = (await model.forward(PROMPT, { capture, steering: STEER })).captures["layers.2"]!;
    const deviation = new Deviation();
    for (let row = 0; row < plain.shape[0]; row++) {
      const change = wave(1).map((_, i) => steered.data[row * 64 + i]! - plain.data[row * 64 + i]!);
      deviation.compare(
        `row ${row}`,
        change,
        wave(1).map((x) => 1.5 * x),
      );
    }
    console.log(`captured difference: ${deviation}`);
    expect(deviation.worst).toBeLessThan(1e-5);
  });
});

describe("batches", () => {
  const prompts = ["Once upon a time", "The", "Lily was sad because", "One day, Tim went to the park."];
  const programs = [
    [],
    STEER,
    [{ layer: 2, op: "ablate" as const, vector: wave(2) }, ...STEER],
    [...STEER, { layer: 2, op: "cap" as const, vector: wave(3), max: 0.5 }, { layer: 4, vector: wave(4) }],
  ];

  test("each request answers as it does alone, whatever its neighbours do", async () => {
    const options = programs.map((steering) => ({ maxTokens: 40, ignoreEos: true, logprobs: 0, steering }));
    const together = await model.generate(prompts, options);
    const deviation = new Deviation();
    for (const [i, result] of together.entries()) {
      const alone = await model.generate(prompts[i]!, options[i]);
      expect(ids(result)).toEqual(ids(alone));
      expect(result.steering.map(acted)).toEqual(alone.steering.map(acted));
      deviation.compare(`prompt ${i}`, result.logprobs!.tokens, alone.logprobs!.tokens);
    }
    console.log(`batched against alone, logprobs: ${deviation}`);
    expect(deviation.worst).toBeLessThan(1e-4);
  });

  test("many calls at once", async () => {
    const expected = ids(await model.generate(PROMPT, { maxTokens: 20, steering: STEER }));
    const many = await Promise.all(
      Array.from({ length: 40 }, (_, i) =>
        model.generate(PROMPT, { maxTokens: 20, steering: i % 2 ? STEER : [] }),
      ),
    );
    for (const [i, result] of many.entries()) if (i % 2) expect(ids(result)).toEqual(expected);
  });

  test("one bad prompt refuses the whole batch before anything runs", async () => {
    const before = model.stats().requests;
    await expect(model.generate([PROMPT, ""])).rejects.toMatchObject({ code: "ERR_PROMPT_EMPTY" });
    await expect(model.generate([PROMPT, PROMPT], [{}])).rejects.toMatchObject({
      code: "ERR_ARGUMENT_RANGE",
    });
    expect(model.stats().requests).toBe(before);
  });

  test("order of operations at one site is the order given", async () => {
    const cap = { layer: 2, op: "cap" as const, vector: wave(1), max: 0 };
    const [one, other] = await Promise.all([
      model.forward(PROMPT, { steering: [STEER[0]!, cap], capture: { sites: [2] } }),
      model.forward(PROMPT, { steering: [cap, STEER[0]!], capture: { sites: [2] } }),
    ]);
    const unit = wave(1).map((x) => x / Math.hypot(...wave(1)));
    const projection = (data: Float32Array) => unit.reduce((sum, x, i) => sum + x * data[i]!, 0);
    expect(projection(one.captures["layers.2"]!.data)).toBeLessThan(1e-4);
    expect(projection(other.captures["layers.2"]!.data)).toBeGreaterThan(1);
  });
});

describe("streams", () => {
  test("the chunks add up to the answer", async () => {
    const options = { maxTokens: 50, temperature: 0.9, seed: 3, steering: STEER, logprobs: 2 };
    const whole = await model.generate(PROMPT, options);
    const stream = model.stream(PROMPT, options);
    const [texts, tokens, logprobs]: [string[], number[], number[]] = [[], [], []];
    for await (const chunk of stream) {
      texts.push(chunk.text);
      tokens.push(...chunk.tokens);
      logprobs.push(...(chunk.logprobs?.tokens ?? []));
    }
    const result = await stream.result;
    expect(texts.join("")).toBe(whole.text);
    expect(tokens).toEqual(ids(whole));
    expect(ids(result)).toEqual(ids(whole));
    expect(logprobs).toEqual(Array.from(whole.logprobs!.tokens));
    expect(result.steering).toEqual(whole.steering);
  });

  test("leaving the loop ends the request within a token or two", async () => {
    const before = model.stats().generatedTokens;
    const stream = model.stream(PROMPT, { maxTokens: 400, ignoreEos: true });
    for await (const _ of stream) break;
    await expect(stream.result).rejects.toMatchObject({ name: "AbortError" });
    while (model.stats().running > 0) await new Promise((resolve) => setTimeout(resolve, 5));
    expect(model.stats().generatedTokens - before).toBeLessThan(200);
    expect(model.stats().waiting).toBe(0);
  });

  test("mistakes are thrown at the call, not at the first chunk", () => {
    expect(() => model.stream("")).toThrow(expect.objectContaining({ code: "ERR_PROMPT_EMPTY" }));
  });
});

describe("ends", () => {
  test("a stop string ends the answer and is not part of it", async () => {
    const plain = await model.generate(PROMPT, { maxTokens: 64 });
    const stop = plain.text.slice(20, 27);
    const stopped = await model.generate(PROMPT, { maxTokens: 64, stop: ["never this", stop] });
    expect(stopped.text).toBe(plain.text.slice(0, plain.text.indexOf(stop)));
    expect(stopped).toMatchObject({ finishReason: "stop", stoppedBy: stop });
    expect(stopped.tokens.length).toBeLessThan(plain.tokens.length);
  });

  test("a stop id ends the answer and is its last token", async () => {
    const plain = await model.generate(PROMPT, { maxTokens: 30 });
    const id = plain.tokens[10]!;
    const at = plain.tokens.indexOf(id);
    const stopped = await model.generate(PROMPT, { maxTokens: 30, stopIds: [id] });
    expect(ids(stopped)).toEqual(ids(plain).slice(0, at + 1));
    expect(stopped).toMatchObject({ finishReason: "stop", stoppedBy: id });
    expect(plain.text.startsWith(stopped.text)).toBe(true);
  });

  test("maxTokens, and the end of the context", async () => {
    expect(await model.generate(PROMPT, { maxTokens: 7, ignoreEos: true })).toMatchObject({
      finishReason: "length",
    });
    const long = await model.generate(PROMPT, { maxTokens: 5000, ignoreEos: true });
    expect(long.finishReason).toBe("context");
    expect(long.promptTokens.length + long.tokens.length).toBeLessThanOrEqual(model.info.contextLength + 1);
  });

  test("an abort rethrows its own reason, during the run and before it", async () => {
    const controller = new AbortController();
    const reason = new Error("enough");
    const running = model.generate(PROMPT, { maxTokens: 450, ignoreEos: true, signal: controller.signal });
    setTimeout(() => controller.abort(reason), 20);
    await expect(running).rejects.toBe(reason);
    await expect(model.generate(PROMPT, { signal: controller.signal })).rejects.toBe(reason);
  });

  test("no listener is left on a signal, however the call ended", async () => {
    const { signal } = new AbortController();
    await model.generate(PROMPT, { maxTokens: 3, signal });
    await model.score(PROMPT, { signal });
    for await (const _ of model.stream(PROMPT, { maxTokens: 100, signal })) break;
    await expect(model.generate("", { signal })).rejects.toThrow();
    expect(getEventListeners(signal, "abort")).toHaveLength(0);
  });
});

describe("sampling", () => {
  test("the same seed gives the same sample, another one another", async () => {
    const run = (seed: number) => model.generate(PROMPT, { maxTokens: 30, temperature: 1, seed });
    const [a, b, c] = await Promise.all([run(5), run(5), run(6)]);
    expect(ids(a)).toEqual(ids(b));
    expect(ids(a)).not.toEqual(ids(c));
    expect(a.seed).toBe(5);
  });

  test("logit bias and top-k reach the sampler", async () => {
    const biased = await model.generate(PROMPT, { maxTokens: 5, logitBias: { 396: 1000 } });
    expect(ids(biased)).toEqual([396, 396, 396, 396, 396]);
    const greedy = await model.generate(PROMPT, { maxTokens: 20 });
    const single = await model.generate(PROMPT, { maxTokens: 20, temperature: 2, topK: 1, seed: 1 });
    expect(ids(single)).toEqual(ids(greedy));
  });

  test("logprobs are of the chosen token and of the k best, in order", async () => {
    const { logprobs, tokens } = await model.generate(PROMPT, { maxTokens: 8, logprobs: 3 });
    expect(logprobs!.tokens).toHaveLength(tokens.length);
    for (const [i, top] of logprobs!.top.entries()) {
      expect(top).toHaveLength(3);
      expect(top[0]).toMatchObject({ id: tokens[i], logprob: logprobs!.tokens[i] });
      expect(top[0]!.logprob).toBeGreaterThanOrEqual(top[1]!.logprob);
    }
  });
});

describe("captures", () => {
  test("prompt and generated rows, none lost, equal to a pass over the whole text", async () => {
    const sites = ["embed", 0, "layers.1.attn", "layers.1.mlp", -1, "final"];
    const result = await model.generate(PROMPT, {
      maxTokens: 16,
      ignoreEos: true,
      steering: STEER,
      capture: { sites },
    });
    const all = [...result.promptTokens, ...result.tokens];
    const whole = await model.forward({ tokens: all.slice(0, -1) }, { steering: STEER, capture: { sites } });
    const deviation = new Deviation();
    expect(Object.keys(result.captures!)).toEqual([
      "embed",
      "layers.0",
      "layers.1.attn",
      "layers.1.mlp",
      "layers.4",
      "final",
    ]);
    for (const [site, { data, shape, positions }] of Object.entries(result.captures!)) {
      expect(shape).toEqual([all.length - 1, 64]);
      expect(Array.from(positions)).toEqual(all.slice(1).map((_, i) => i));
      deviation.compare(site, data, whole.captures[site]!.data);
    }
    console.log(`decode against prefill, captures: ${deviation}`);
    expect(deviation.lowestCosine).toBeGreaterThan(0.999999);
  });

  test("pooling and positions are taken from the rows", async () => {
    const get = async (capture: object) =>
      (await model.forward(PROMPT, { capture: { sites: [1], ...capture } })).captures["layers.1"]!;
    const every = await get({});
    const rows = every.shape[0];
    const last = await get({ pool: "last" });
    expect(last.shape).toEqual([1, 64]);
    expect(Array.from(last.positions)).toEqual([rows - 1]);
    expect(Array.from(last.data)).toEqual(Array.from(every.data.subarray((rows - 1) * 64)));
    const two = await get({ positions: [0, -1] });
    expect(Array.from(two.positions)).toEqual([0, rows - 1]);
    const mean = await get({ pool: "mean" });
    const deviation = new Deviation();
    const expected = Float32Array.from({ length: 64 }, (_, i) => {
      let sum = 0;
      for (let row = 0; row < rows; row++) sum += every.data[row * 64 + i]!;
      return sum / rows;
    });
    deviation.compare("mean", mean.data, expected);
    expect(deviation.worst).toBeLessThan(1e-5);
  });
});

describe("score", () => {
  test("equals the logits of a forward pass, and generation's own logprobs", async () => {
    const { tokens, logits, shape } = await model.forward(PROMPT, { logits: "all", steering: STEER });
    const { logprobs, meanNll, perplexity } = await model.score(PROMPT, { steering: STEER });
    const expected = Array.from(tokens.subarray(1), (id, i) => {
      const row = logits.subarray(i * shape[1], (i + 1) * shape[1]);
      const max = Math.max(...row);
      return row[id]! - max - Math.log(row.reduce((sum, x) => sum + Math.exp(x - max), 0));
    });
    const deviation = new Deviation();
    deviation.compare("logprobs", logprobs.subarray(1), expected);
    expect(deviation.worst).toBeLessThan(1e-4);
    expect(logprobs[0]).toBeNaN();
    expect(meanNll).toBeCloseTo(-expected.reduce((sum, x) => sum + x, 0) / expected.length, 4);
    expect(perplexity).toBeCloseTo(Math.exp(meanNll), 6);
  });

  test("one token has no likelihood", async () => {
    await expect(model.score({ tokens: [1] })).rejects.toMatchObject({ code: "ERR_ARGUMENT_RANGE" });
  });
});

describe("chat", () => {
  const template =
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}bot: {% endif %}";
  const messages = [
    { role: "user", content: "Tell me about Lily." },
    { role: "bot", content: "She is a girl." },
    { role: "user", content: "And Tim?" },
  ];

  test("the answer, its parts and its place", async () => {
    const options = { template, prefill: "Tim was", maxTokens: 12, steering: STEER, capture: { sites: [2] } };
    const response = await model.chat(messages, options);
    expect(response.fullText).toBe(`Tim was${response.generated}`);
    expect(response.toMessage()).toEqual({ role: "assistant", content: response.fullText });
    expect(response.boundaries).toHaveLength(4);
    expect(response.boundaries.at(-1)!.endToken).toBe(response.promptTokens.length + response.tokens.length);
    expect(response.steering[0]!.rows).toBe(response.promptTokens.length + response.tokens.length - 1);
    const streamed: string[] = [];
    for await (const { text } of model.chatStream(messages, options)) streamed.push(text);
    expect(streamed.join("")).toBe(response.generated);
  });

  test("a model without a template says so", async () => {
    await expect(model.chat(messages)).rejects.toMatchObject({ code: "ERR_TEMPLATE_MISSING" });
    await expect(model.generate(messages)).rejects.toMatchObject({ code: "ERR_TEMPLATE_MISSING" });
  });
});

test("prompt embeddings of the tokens give the answer of the tokens", async () => {
  const tokens = model.tokenizer!.encode(PROMPT);
  const { captures } = await model.forward({ tokens }, { capture: { sites: ["embed"] } });
  const { data, shape } = captures.embed!;
  const given = await model.generate({ promptEmbeddings: data, shape }, { maxTokens: 20, steering: STEER });
  expect(ids(given)).toEqual(ids(await model.generate({ tokens }, { maxTokens: 20, steering: STEER })));
});

test("a vector of several layers acts at each", async () => {
  const vector = new SteeringVector({
    directions: new Map([
      [1, wave(1)],
      [3, wave(2)],
    ]),
  });
  const { steering } = await model.forward(PROMPT, { steering: [{ vector, scale: 0.5 }] });
  expect(steering.map((s) => [s.site, s.operation])).toEqual([
    ["layers.1", 0],
    ["layers.3", 0],
  ]);
});

test("a disposed model refuses everything, twice disposed is once", async () => {
  const other = await SteerModel.load("stories260k", { device: "cpu" });
  const running = other.generate(PROMPT, { maxTokens: 450, ignoreEos: true });
  const refused = expect(running).rejects.toMatchObject({ code: "ERR_DISPOSED" });
  await Promise.all([other.dispose(), other.dispose()]);
  await refused;
  for (const call of [
    () => other.generate(PROMPT),
    () => other.chat([{ role: "user", content: "x" }]),
    () => other.forward(PROMPT),
    () => other.score(PROMPT),
  ])
    await expect(call()).rejects.toMatchObject({ code: "ERR_DISPOSED" });
  expect(() => other.stream(PROMPT)).toThrow(expect.objectContaining({ code: "ERR_DISPOSED" }));
  expect(() => other.stats()).toThrow(expect.objectContaining({ code: "ERR_DISPOSED" }));
});

test("what cannot be loaded is named", async () => {
  await expect(SteerModel.load("./nowhere.pt")).rejects.toMatchObject({ code: "ERR_MODEL_UNKNOWN" });
  await expect(
    SteerModel.load(new URL("../../package.json", import.meta.url).pathname),
  ).rejects.toMatchObject({
    code: "ERR_ARCHIVE_FORMAT",
  });
  const aborted = AbortSignal.abort(new Error("no"));
  await expect(SteerModel.load("stories260k", { signal: aborted })).rejects.toThrow("no");
});
