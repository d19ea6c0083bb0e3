// SPDX-License-Identifier: Apache-2.0
// The promises of SteerModel on a real (small) model: identity, proof, no cross-talk, captures without a lost row.
import { describe, expect, test } from "vitest";
import { SteeringVector } from "../../src/steering/vector.ts";
import { Deviation } from "./golden.ts";
import { acted, ids, model, PROMPT, STEER, wave } from "./stories-world.ts";

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
