// SPDX-License-Identifier: Apache-2.0
// How calls of SteerModel run and end, on a real (small) model: the same answer streamed and whole, alone and
// in a batch, clean ends, sampling, chat.
import { getEventListeners } from "node:events";
import { describe, expect, test } from "vitest";
import { SteerModel } from "../../src/model/steer-model.ts";
import { Deviation } from "./golden.ts";
import { acted, ids, model, PROMPT, STEER, wave } from "./stories-world.ts";

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

  test("one signal for many requests is no leak, and ends them all with its reason", async () => {
    const warnings: Error[] = [];
    const onWarning = (warning: Error) => warnings.push(warning);
    process.on("warning", onWarning);
    const controller = new AbortController();
    const { signal } = controller;
    const reason = new Error("all of you");
    const options = { maxTokens: 450, ignoreEos: true, signal };
    const held = { sites: [2], chunkBytes: 0, onRows: () => new Promise<void>(() => undefined) };
    const running = Array.from({ length: 40 }, (_, i) =>
      model.generate(PROMPT, i % 4 === 0 ? { ...options, capture: held } : options),
    );
    const ended = Promise.allSettled(running);
    await model.generate(PROMPT, { maxTokens: 3, signal });
    expect(getEventListeners(signal, "abort")).toHaveLength(1);
    controller.abort(reason);
    for (const each of await ended) expect(each).toEqual({ status: "rejected", reason });
    await new Promise((resolve) => setImmediate(resolve));
    process.off("warning", onWarning);
    expect(warnings).toEqual([]);
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
