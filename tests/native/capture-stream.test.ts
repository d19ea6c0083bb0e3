// SPDX-License-Identifier: Apache-2.0
// Streams of captures: the same rows as a capture that is held to the end, bit for bit, whatever the
// chunk, the neighbours, the consumer's pace, and however the request ends.
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { CaptureOptions } from "../../src/model/capture-options.ts";
import { SteerModel } from "../../src/model/steer-model.ts";
import type { SteeringProgram } from "../../src/steering/program.ts";
import { Joined } from "./joined-rows.ts";

const WIDTH = 64;
const ROW = WIDTH * 4 + 4;
const tokensOf = (length: number, seed: number) =>
  Int32Array.from({ length }, (_, i) => 3 + ((i * 37 + seed * 101) % 500));
const direction = (seed: number) =>
  Float32Array.from({ length: WIDTH }, (_, i) => Math.sin(seed * 7 + i * 1.3));
const greedy = (maxTokens: number) => ({ maxTokens, temperature: 0, ignoreEos: true }) as const;

let model: SteerModel;
beforeAll(async () => {
  model = await SteerModel.load("stories260k", { device: "cpu", tokenBudget: 48, maxBatch: 4 });
});
afterAll(() => model.dispose());

describe("streamed rows", () => {
  const sites = ["embed", 0, 1, 2, 3, 4, "final", "layers.2.attn", "layers.2.mlp"] as const;
  const cases: Record<string, Omit<CaptureOptions, "sites">> = {
    "every row": {},
    "the prompt alone": { phase: "prompt" },
    "the generation alone": { phase: "generation" },
    "some positions": { positions: [0, [40, 60], -1] },
    "pooled by mean": { pool: "mean" },
    "pooled to the last": { pool: "last" },
    "pooled to the first": { pool: "first", phase: "generation" },
  };
  for (const [name, selection] of Object.entries(cases))
    test(`are those of the whole capture, bit for bit, first and last included: ${name}`, async () => {
      const prompt = tokensOf(130, 5);
      const whole = await model.generate(prompt, { ...greedy(20), capture: { sites, ...selection } });
      for (const chunkBytes of [0, 5_000, 1 << 20]) {
        const joined = new Joined();
        const streamed = await model.generate(prompt, {
          ...greedy(20),
          capture: { sites, ...selection, chunkBytes, onRows: joined.add },
        });
        expect(streamed.captures).toBeUndefined();
        expect([...streamed.tokens]).toEqual([...whole.tokens]);
        joined.expectEqual(whole.captures!, `${name}, chunks of ${chunkBytes}`);
        if (chunkBytes > 100_000 || selection.pool) expect(joined.chunks).toBeLessThanOrEqual(2);
      }
    });

  test("reduced on the device keep their indices", async () => {
    const prompt = tokensOf(70, 6);
    const reductions = [
      { lens: 3 },
      { directions: [direction(1), direction(2)] },
      { sae: { weight: Float32Array.from({ length: 6 * WIDTH }, (_, i) => Math.cos(i)), topK: 2 } },
    ];
    for (const reduce of reductions) {
      const joined = new Joined();
      const whole = await model.forward(prompt, { capture: { sites: [1, 3], reduce } });
      await model.forward(prompt, { capture: { sites: [1, 3], reduce, chunkBytes: 0, onRows: joined.add } });
      joined.expectEqual(whole.captures, Object.keys(reduce)[0]!);
      expect(joined.chunks).toBe(2);
    }
  });

  test("of a chunked prompt with a cached prefix start where the selection does, not where the chunk does", async () => {
    const prompt = tokensOf(200, 9);
    await model.generate(prompt, greedy(2));
    const capture = { sites: [0, 4], positions: [[150, 10_000]] } as const;
    const cold = await model.generate(prompt, { ...greedy(8), reusePrefix: false, capture });
    const joined = new Joined();
    const warm = await model.generate(prompt, {
      ...greedy(8),
      capture: { ...capture, chunkBytes: 0, onRows: joined.add },
    });
    // Whole blocks at the least; what is captured cannot come from the cache.
    expect(warm.usage.cachedTokens).toBeGreaterThanOrEqual(128);
    expect(warm.usage.cachedTokens).toBeLessThanOrEqual(150);
    joined.expectEqual(cold.captures!, "cached prefix");
    expect(joined.sites.get("layers.0")!.positions).toEqual(Array.from({ length: 57 }, (_, i) => 150 + i));
  });

  test("are their own while 16 neighbours run other programs", async () => {
    const programs: SteeringProgram[] = Array.from({ length: 16 }, (_, i) => [
      { layer: i % 4, vector: direction(i), scale: 0.3 + i / 10 },
      { layer: 3, op: "ablate", vector: direction(i + 50), scope: { phase: i % 2 ? "generation" : "all" } },
    ]);
    const run = (i: number, joined: Joined | undefined) =>
      model.generate(tokensOf(30 + 7 * i, i), {
        ...greedy(10 + i),
        steering: programs[i]!,
        reusePrefix: false,
        capture: { sites: [0, 2, 3, "final"], ...(joined ? { chunkBytes: 3000, onRows: joined.add } : {}) },
      });
    const alone: Awaited<ReturnType<typeof run>>[] = [];
    for (let i = 0; i < 16; i++) alone.push(await run(i, undefined));
    const joined = programs.map(() => new Joined());
    await Promise.all(programs.map((_, i) => run(i, joined[i])));
    joined.forEach((each, i) => {
      each.expectEqual(alone[i]!.captures!, `request ${i}`);
    });
  });

  test("come from the answer's own stop, its last fed-back token included", async () => {
    const plain = await model.generate("Once upon a time", { maxTokens: 40, temperature: 0 });
    const stopped = new Joined();
    const result = await model.generate("Once upon a time", {
      maxTokens: 40,
      temperature: 0,
      stopIds: [plain.tokens[17]!],
      capture: { sites: [2], onRows: stopped.add },
    });
    expect(result.finishReason).toBe("stop");
    const last = result.promptTokens.length + result.tokens.length - 1;
    expect(stopped.sites.get("layers.2")!.positions).toEqual(Array.from({ length: last }, (_, i) => i));
  });
});

describe("a slow consumer", () => {
  // 8 sites of 64 floats: a row of all sites takes 2,080 bytes.
  const sites = ["embed", 0, 1, 2, 3, 4, "final", "layers.2.mlp"] as const;
  const rowBytes = sites.length * ROW;

  test("bounds what is out, holds no neighbour up, and gets every row", async () => {
    const prompt = tokensOf(40, 3);
    const whole = await model.generate(prompt, { ...greedy(300), capture: { sites } });
    const bufferBytes = 40 * rowBytes;
    const joined = new Joined();
    let open: (() => void) | undefined;
    const gate = new Promise<void>((resolve) => {
      open = resolve;
    });
    let taken = 0;
    const start = model.stats();
    const rowsAtStart = start.promptTokens + start.generatedTokens;
    const slow = model.generate(prompt, {
      ...greedy(300),
      capture: {
        sites,
        bufferBytes,
        chunkBytes: 0,
        onRows: async (rows) => {
          await gate;
          taken += rows.embed!.positions.length;
          joined.add(rows);
        },
      },
    });
    // Neighbours come and go, more of them than a step has places, while the other one is paused.
    const neighbours = await Promise.all(
      Array.from({ length: 9 }, (_, i) =>
        model.generate(tokensOf(60, i), { ...greedy(30), reusePrefix: false }),
      ),
    );
    expect(neighbours.every((each) => each.tokens.length === 30)).toBe(true);
    await expect.poll(() => model.stats().running).toBe(1);
    const before = model.stats();
    // All rows that were computed are the neighbours' and at most one buffer's worth.
    const computed = before.promptTokens + before.generatedTokens - rowsAtStart;
    const made = computed - 9 * (60 + 29);
    expect(made).toBeGreaterThan(0);
    expect(made).toBeLessThanOrEqual(41);
    await sleep(100);
    // It rests: no step is taken, and fewer rows were made than fit into the buffer.
    expect(model.stats().steps).toBe(before.steps);
    expect(taken).toBe(0);
    open!();
    const result = await slow;
    expect([...result.tokens]).toEqual([...whole.tokens]);
    joined.expectEqual(whole.captures!, "slow consumer");
  });

  test("never has more out than the buffer, over a run that makes forty times as much", async () => {
    const bufferBytes = 10 * rowBytes;
    let [total, most] = [0, 0];
    await model.generate(tokensOf(90, 4), {
      ...greedy(320),
      capture: {
        sites,
        bufferBytes,
        chunkBytes: 2 * rowBytes,
        onRows: async (rows) => {
          const bytes = Object.values(rows).reduce((sum, { positions }) => sum + positions.length * ROW, 0);
          total += bytes;
          most = Math.max(most, bytes);
          await sleep(0);
        },
      },
    });
    expect(total).toBe(409 * rowBytes);
    expect(total / bufferBytes).toBeGreaterThan(40);
    expect(most).toBeLessThanOrEqual(bufferBytes);
  });

  test("that is aborted while paused ends with the reason, and the model goes on", async () => {
    const controller = new AbortController();
    const reason = new Error("enough");
    let chunks = 0;
    const running = model.generate(tokensOf(40, 3), {
      ...greedy(300),
      signal: controller.signal,
      capture: {
        sites,
        bufferBytes: 4 * rowBytes,
        chunkBytes: 0,
        onRows: () => {
          chunks++;
          return new Promise<void>(() => undefined);
        },
      },
    });
    running.catch(() => undefined);
    while (chunks === 0 || model.stats().running === 0) await sleep(5);
    controller.abort(reason);
    await expect(running).rejects.toBe(reason);
    expect(chunks).toBe(1);
    expect((await model.generate(tokensOf(10, 1), greedy(3))).tokens.length).toBe(3);
    await expect.poll(() => model.stats().running).toBe(0);
  });

  test("that throws ends its request with what it threw", async () => {
    const thrown = new Error("the disk is gone");
    const running = model.generate(tokensOf(40, 3), {
      ...greedy(50),
      capture: {
        sites,
        chunkBytes: 0,
        onRows: () => {
          throw thrown;
        },
      },
    });
    await expect(running).rejects.toBe(thrown);
    expect((await model.generate(tokensOf(10, 1), greedy(3))).tokens.length).toBe(3);
    await expect.poll(() => model.stats().running).toBe(0);
  });

  test("of a model that is disposed while it is paused meets ERR_DISPOSED", async () => {
    const other = await SteerModel.load("stories260k", { device: "cpu" });
    let release: (() => void) | undefined;
    const running = other.generate(tokensOf(40, 3), {
      ...greedy(300),
      capture: {
        sites,
        bufferBytes: 4 * rowBytes,
        chunkBytes: 0,
        onRows: () =>
          new Promise<void>((resolve) => {
            release = resolve;
          }),
      },
    });
    running.catch(() => undefined);
    while (release === undefined) await sleep(5);
    await other.dispose();
    const poll = setInterval(() => release?.(), 1);
    await expect(running).rejects.toMatchObject({ code: "ERR_DISPOSED" });
    clearInterval(poll);
  });
});

test("a run of 170 MB leaves the process as large as it was", async () => {
  const sites = model.sites
    .map(({ name }) => name)
    .filter((name) => /^(embed|final|layers\.\d(\.\w+)?)$/.test(name));
  const prompts = Array.from({ length: 80 }, (_, i) => tokensOf(500, i));
  const options = { sites, together: 4, bufferBytes: 8 << 20, reusePrefix: false };
  for await (const { prompt } of model.captureStream(prompts.slice(0, 8), options))
    expect(prompt).toBeLessThan(8);
  const before = process.memoryUsage().rss;
  let [bytes, most] = [0, 0];
  for await (const { captures } of model.captureStream(prompts, options)) {
    for (const { data } of Object.values(captures)) bytes += data.byteLength;
    most = Math.max(most, process.memoryUsage().rss - before);
  }
  expect(bytes).toBe(80 * 500 * 64 * 4 * sites.length);
  expect(bytes).toBeGreaterThan(170e6);
  console.log(
    `${(bytes / 1e6).toFixed(0)} MB streamed, the process grew by at most ${(most / 1e6).toFixed(0)} MB`,
  );
  expect(most).toBeLessThan(80e6);
});

describe("messages", () => {
  test("of a prompt that is no conversation are refused, and so are both kinds of selection", async () => {
    const capture = (more: object) => ({ capture: { sites: [0], ...more } as CaptureOptions });
    await expect(model.forward("Once", capture({ messages: [0] }))).rejects.toMatchObject({
      code: "ERR_MESSAGES",
    });
    await expect(model.forward("Once", capture({ messages: [0], positions: [0] }))).rejects.toMatchObject({
      code: "ERR_ARGUMENT_TYPE",
    });
    await expect(model.forward("Once", capture({ onRows: 1 }))).rejects.toMatchObject({
      code: "ERR_ARGUMENT_TYPE",
    });
    await expect(model.forward("Once", capture({ bufferBytes: 0 }))).rejects.toMatchObject({
      code: "ERR_ARGUMENT_RANGE",
    });
  });

  test("are those that the boundaries of the answer name", async () => {
    const template =
      "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
    const messages = [
      { role: "system", content: "Tell short stories." },
      { role: "user", content: "Once upon a time" },
      { role: "assistant", content: "There was a cat." },
      { role: "user", content: "And then?" },
    ];
    const options = { ...greedy(6), template };
    const whole = await model.chat(messages, { ...options, capture: { sites: [1] } });
    const picked = async (chosen: CaptureOptions["messages"]) => {
      const joined = new Joined();
      await model.chat(messages, {
        ...options,
        capture: { sites: [1], messages: chosen!, onRows: joined.add },
      });
      return joined.sites.get("layers.1")!.positions;
    };
    const range = (i: number) => {
      const { startToken, endToken } = whole.boundaries[i]!;
      // The last generated token is never fed back.
      const end = Math.min(endToken, whole.promptTokens.length + whole.tokens.length - 1);
      return Array.from({ length: end - startToken }, (_, k) => startToken + k);
    };
    expect(await picked(0)).toEqual(range(0));
    expect(await picked("user")).toEqual([...range(1), ...range(3)]);
    expect(await picked([-1, "system"])).toEqual([...range(0), ...range(3)]);
    expect(await picked("answer")).toEqual(range(4));
    await expect(picked("tool")).rejects.toMatchObject({ code: "ERR_MESSAGES" });
    await expect(picked(7)).rejects.toMatchObject({ code: "ERR_MESSAGES" });
  });
});
