// SPDX-License-Identifier: Apache-2.0
// What the tests of SteerModel share: the small real model, a program, and what an answer says.
import { afterAll, beforeAll } from "vitest";
import type { AppliedOperation, GenerateResult } from "../../src/model/results.ts";
import { SteerModel } from "../../src/model/steer-model.ts";

export const PROMPT = "Once upon a time";
export const wave = (seed: number) => Float32Array.from({ length: 64 }, (_, i) => Math.sin(seed + i * 1.7));
export const STEER = [{ layer: 2, vector: wave(1), scale: 1.5 }];

/** stories260k, loaded for the importing file and disposed after its tests. */
export let model: SteerModel;
beforeAll(async () => {
  model = await SteerModel.load("stories260k", { device: "cpu" });
});
afterAll(() => model?.dispose());

export const ids = (result: GenerateResult) => Array.from(result.tokens);
/** Rows an operation acted on, now or when the prefix that was reused was computed. */
export const acted = ({ rows, reusedRows }: AppliedOperation) => rows + reusedRows;
