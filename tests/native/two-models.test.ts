// SPDX-License-Identifier: Apache-2.0
// Models that work at once in one process: their cores are shared, their answers are not changed, nobody
// waits for ever, and what a profile counts while they run adds up.

import { afterAll, beforeAll, expect, test } from "vitest";
import { SteerModel } from "../../src/model/steer-model.ts";
import { loadAddon } from "../../src/native/loader.ts";

const models: SteerModel[] = [];
beforeAll(async () => {
  // More threads than this machine may have: together far more.
  for (const threads of [2, 4, 3])
    models.push(await SteerModel.load("stories260k", { device: "cpu", threads }));
});
afterAll(async () => {
  for (const model of models) await model.dispose();
});

const prompts = ["Once upon a time", "The dog was", "Lily had a red ball and"];

async function answers(model: SteerModel) {
  const vector = Float32Array.from({ length: model.info.hiddenSize }, (_, i) => Math.sin(i));
  const texts = [];
  for (const scale of [0, 0.5]) {
    const results = await model.generate(prompts, {
      maxTokens: 40,
      temperature: 0,
      logprobs: 0,
      steering: [{ layer: 2, op: "add", vector, scale }],
    });
    for (const { tokens, logprobs } of results) texts.push([...tokens].join(" "), JSON.stringify(logprobs));
  }
  return texts;
}

test("three models at once answer, bit for bit, as each does alone", async () => {
  const alone = [];
  for (const model of models) alone.push(await answers(model));
  for (let round = 0; round < 3; round++) {
    const together = await Promise.all(models.map(answers));
    expect(together).toEqual(alone);
  }
});

test("a model that is disposed at work gives its cores back", async () => {
  const alone = await answers(models[0]!);
  const passing = await SteerModel.load("stories260k", { device: "cpu", threads: 4 });
  const cut = passing
    .generate(prompts, { maxTokens: 400, temperature: 0, ignoreEos: true })
    .catch((error: { code?: string }) => error.code);
  const beside = answers(models[0]!);
  await passing.dispose();
  expect(await cut).toBe("ERR_DISPOSED");
  expect(await beside).toEqual(alone);
  expect(await answers(models[0]!)).toEqual(alone);
});

test("a profile tells every operator of the steps, and nothing after it was stopped", async () => {
  const addon = loadAddon();
  const model = models[0]!;
  addon.profile("start");
  const begin = performance.now();
  await answers(model);
  const wall = performance.now() - begin;
  const lines = addon.profile("stop");
  await answers(model);
  expect(addon.profile("read")).toEqual(lines);
  const of = (name: string) => lines.find(({ operator }) => operator === name)!;
  const { layers } = model.info;
  const forwards = of("interpreter").calls;
  expect(of("step").calls).toBe(forwards);
  for (const name of ["qkv", "attention", "linear", "mlp"]) expect(of(name).calls).toBe(layers * forwards);
  expect(of("norm").calls).toBe((2 * layers + 1) * forwards);
  expect(of("steer").calls).toBeGreaterThan(0);
  expect(of("qkv").bytes).toBeGreaterThan(0);
  const sum = lines.reduce((total, { nanoseconds }) => total + nanoseconds, 0) / 1e6;
  console.info(`operators ${sum.toFixed(1)} ms of ${wall.toFixed(1)} ms`);
  expect(sum).toBeLessThanOrEqual(wall);
});
