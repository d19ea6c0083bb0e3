// SPDX-License-Identifier: Apache-2.0
// Gates: open exactly where the reading is on their side, in prefill and decode; readings of the row
// itself and of an earlier site; latches; orders that cannot be.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { SteerModel } from "../../src/model/steer-model.ts";
import type { SteeringGate } from "../../src/steering/gate.ts";
import type { SteeringOperation } from "../../src/steering/program.ts";
import { dot, length, steered, unit, wave } from "./steering-formulas.ts";

const PROMPT = "Once upon a time there was";
const [push, gateDirection] = [wave(1), wave(2)];
const c = unit(gateDirection);

let model: SteerModel;
beforeAll(async () => {
  model = await SteerModel.load("stories260k", { device: "cpu" });
});
afterAll(() => model?.dispose());

/** Rows of some sites over prompt and 12 generated tokens. */
async function run(steering: SteeringOperation[], sites = [0, 2]) {
  const result = await model.generate(PROMPT, {
    maxTokens: 12,
    ignoreEos: true,
    steering,
    capture: { sites },
  });
  const rows = sites.map((site) => {
    const { data, shape } = result.captures![`layers.${site}`]!;
    return Array.from({ length: shape[0] }, (_, r) => Array.from(data.subarray(r * 64, r * 64 + 64)));
  });
  return { rows, result };
}

const reading = (h: ArrayLike<number>, cosine: boolean) => dot(h, c) / (cosine ? length(h) : 1);
/** A threshold with rows on both sides, prompt and generated, and none too near. */
function middle(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  let [best, at] = [0, 0];
  for (let i = Math.floor(sorted.length / 4); i < (3 * sorted.length) / 4; i++) {
    const gap = sorted[i + 1]! - sorted[i]!;
    if (gap > best) [best, at] = [gap, (sorted[i + 1]! + sorted[i]!) / 2];
  }
  return at;
}

describe("per token", () => {
  for (const site of [0, 2])
    for (const cosine of [false, true])
      for (const above of [true, false])
        test(`read at layer ${site}, ${cosine ? "cosine" : "projection"}, ${above ? "above" : "below"}`, async () => {
          // A small push keeps the tokens, so that the plain run tells which rows are on which side.
          const vector = push.map((x) => x * 1e-4);
          const plain = await run([]);
          const values = plain.rows[site === 0 ? 0 : 1]!.map((h) => reading(h, cosine));
          const threshold = middle(values);
          const gate: SteeringGate = { layer: site, direction: gateDirection, threshold, cosine, above };
          const gated = await run([{ layer: 2, vector, gate }]);
          expect(Array.from(gated.result.tokens)).toEqual(Array.from(plain.result.tokens));
          const open = values.map((value) => value > threshold === above);
          expect(open.includes(true) && open.includes(false)).toBe(true);
          expect(gated.result.steering[0]!.rows).toBe(open.filter(Boolean).length);
          expect(Math.abs(gated.result.steering[0]!.meanChangeNorm / length(vector) - 1)).toBeLessThan(2e-2);
        });

  test("in one forward every row is steered or left alone, to the bit", async () => {
    const at = async (steering: SteeringOperation[]) => {
      const { captures } = await model.forward(PROMPT, { steering, capture: { sites: [0, 2] } });
      return [captures["layers.0"]!.data, captures["layers.2"]!.data] as const;
    };
    const [early, plain] = await at([]);
    const count = early.length / 64;
    const row = (data: Float32Array, r: number) => data.subarray(r * 64, r * 64 + 64);
    const threshold = middle(Array.from({ length: count }, (_, r) => reading(row(early, r), true)));
    const gate: SteeringGate = { layer: 0, direction: gateDirection, threshold, cosine: true };
    const [, got] = await at([{ layer: 2, vector: push, scale: 2, gate }]);
    for (let r = 0; r < count; r++) {
      const h = Array.from(row(plain, r));
      const open = reading(row(early, r), true) > threshold;
      const expected = open ? steered(h, { op: "add", vector: push, scale: 2 }) : h;
      expect(Math.max(...expected.map((x, i) => Math.abs(x - row(got, r)[i]!)))).toBeLessThan(
        open ? 1e-5 : 1e-12,
      );
    }
  });

  test("the own site is read as it stands at the operation's turn, an earlier one after its operations", async () => {
    const rowsOf = async (steering: SteeringOperation[]) =>
      (await model.forward(PROMPT, { steering })).steering.map((s) => s.rows);
    const tokens = model.tokenizer!.encode(PROMPT).length;
    const toFar: SteeringOperation = { layer: 2, vector: Float32Array.from(c), scale: 1000 };
    const here: SteeringOperation = {
      layer: 2,
      vector: push,
      gate: { direction: gateDirection, threshold: 500 },
    };
    expect(await rowsOf([here, toFar])).toEqual([0, tokens]);
    expect(await rowsOf([toFar, here])).toEqual([tokens, tokens]);
    const earlier = { layer: 0, direction: gateDirection, threshold: 500 };
    const after: SteeringOperation = { layer: 2, vector: push, gate: earlier };
    expect(await rowsOf([after, { ...toFar, layer: 0 }])).toEqual([tokens, tokens]);
    expect(await rowsOf([after, toFar])).toEqual([0, tokens]);
  });

  test("one gate shared by operations at many sites", async () => {
    const gate: SteeringGate = { site: "embed", direction: gateDirection, threshold: 0 };
    const program = [1, 2, 3].map((layer) => ({ layer, vector: push, scale: 0.1, gate }));
    const { steering } = await model.forward(PROMPT, { steering: program });
    expect(new Set(steering.map((s) => s.rows)).size).toBe(1);
    expect(steering[0]!.rows).toBeGreaterThan(0);
  });

  test.each([
    [{ layer: 3 }, "layers.2"],
    [{ site: "final" }, "layers.4"],
    [{ site: "layers.2" }, "layers.2.attn"],
    [{ site: "layers.1.mlp" }, "layers.1.attn"],
  ])("a reading at %j comes too late for an operation at %s", async (place, site) => {
    const gate = { ...place, direction: gateDirection, threshold: 0 };
    await expect(model.forward(PROMPT, { steering: [{ site, vector: push, gate }] })).rejects.toMatchObject({
      name: "SteeringError",
      code: "ERR_GATE_ORDER",
    });
  });
});

describe("latched on the prompt", () => {
  test.each([0, 2, 4])(
    "read at layer %s: decides for all generated rows, leaves the prompt alone",
    async (layer) => {
      const { captures } = await model.forward(PROMPT, { capture: { sites: [layer], positions: [-1] } });
      const value = reading(captures[`layers.${layer}`]!.data, false);
      const plain = await model.generate(PROMPT, { maxTokens: 12, ignoreEos: true });
      const steer = async (gate: object) =>
        model.generate(PROMPT, {
          ...{ maxTokens: 12, ignoreEos: true },
          steering: [
            {
              layer: 2,
              vector: push,
              scale: 3,
              gate: { layer, direction: gateDirection, latch: "prompt", ...gate } as SteeringGate,
            },
          ],
        });
      const always = await model.generate(PROMPT, {
        ...{ maxTokens: 12, ignoreEos: true },
        steering: [{ layer: 2, vector: push, scale: 3, scope: { phase: "generation" } }],
      });
      for (const [gate, fires] of [
        [{ threshold: value - 1e-3 }, true],
        [{ threshold: value + 1e-3 }, false],
        [{ threshold: value + 1e-3, above: false }, true],
        [{ threshold: value - 1e-3, above: false }, false],
      ] as const) {
        const result = await steer(gate);
        expect(Array.from(result.tokens)).toEqual(Array.from(fires ? always.tokens : plain.tokens));
        expect(result.steering[0]!.rows).toBe(fires ? 11 : 0);
      }
    },
  );
});
