// SPDX-License-Identifier: Apache-2.0
// RULER against a model in this process: steered and plain answers of the same prompts, cost of a vector, lengths in
// the model's own tokens.
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { SteerModel } from "../../src/model/steer-model.ts";
import { builtInEssays } from "../../src/ruler/data/built-in-essays.ts";
import { steerModelGenerator } from "../../src/ruler/generators/steer-model.ts";
import { prepareMinimal } from "../../src/ruler/minimal/prepare.ts";
import { readPredictions } from "../../src/ruler/predictions.ts";
import { runTasks } from "../../src/ruler/run.ts";
import { modelCounter } from "../../src/ruler/tokens/model.ts";

const root = resolve(import.meta.dirname, "../..");
const here = existsSync(join(root, "build/Release/chatspace_steer.node"));

describe.skipIf(!here)("RULER with a model in this process", () => {
  let folder: string;
  let model: SteerModel;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "ruler-model-"));
    model = await SteerModel.load(join(root, "models/stories260k.pt"), { device: "cpu" });
    await prepareMinimal({ task: "niah", output: join(folder, "data"), samples: 4, length: 40 });
  });
  afterAll(async () => {
    await model?.dispose();
    await rm(folder, { recursive: true, force: true });
  });

  const answers = async (name: string, options: Parameters<typeof steerModelGenerator>[1] = {}) => {
    const output = join(folder, name);
    const generator = steerModelGenerator(model, { batch: 3, ...options });
    await runTasks({ data: join(folder, "data"), output, generator, maxTokens: 12 });
    return (await readPredictions(join(output, "minimal_niah.jsonl"))).map((row) => row.pred);
  };
  const steering = [{ layer: 2, vector: new Float32Array(64).fill(1), scale: 4 }];

  it("answers in batches as it answers alone, and differently when steered", async () => {
    const batched = await answers("batched");
    expect(batched).toHaveLength(4);
    expect(await answers("alone", { batch: 1 })).toEqual(batched);
    expect(await answers("nothing", { steering: [] })).toEqual(batched);
    expect(await answers("steered", { steering })).not.toEqual(batched);
  });

  it("does not go on with a run that was steered otherwise", async () => {
    const once = (scale: number) =>
      runTasks({
        ...{ data: join(folder, "data"), output: join(folder, "resumed"), maxTokens: 4, resume: true },
        generator: steerModelGenerator(model, { steering: [{ ...steering[0]!, scale }] }),
      });
    await once(4);
    expect(await once(4)).toMatchObject([{ resumed: 4 }]);
    await expect(once(5)).rejects.toMatchObject({ code: "ERR_RULER_RESUME" });
  });

  it("measures lengths as its tokenizer encodes", () => {
    const counter = modelCounter(model);
    const text = builtInEssays().slice(0, 20_000);
    expect(counter.count(text)).toBe(model.tokenizer!.encode(text, { addSpecialTokens: false }).length);
  });
});
