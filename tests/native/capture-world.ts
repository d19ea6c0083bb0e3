// SPDX-License-Identifier: Apache-2.0
// What the tests of captures of many prompts share: prompts, sites, a model with small steps, a folder.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll } from "vitest";
import { SteerModel } from "../../src/model/steer-model.ts";
import { ensureBuilt } from "../cli/run-cli.ts";
import { tokensOf } from "./engine-world.ts";

export const PROMPTS = Array.from({ length: 7 }, (_, i) => tokensOf(3 + ((i * 29) % 71), i));
export const SITES = ["embed", 0, 3, "final"] as const;

/** A folder of the importing file, gone after its tests. */
export const folder = mkdtempSync(join(tmpdir(), "capture-files-"));
export const file = (name: string) => join(folder, name);

/** stories260k in steps of 48 rows, loaded for the importing file and disposed after its tests. */
export let model: SteerModel;
beforeAll(async () => {
  await ensureBuilt();
  model = await SteerModel.load("stories260k", { device: "cpu", tokenBudget: 48 });
}, 120_000);
afterAll(async () => {
  await model?.dispose();
  rmSync(folder, { recursive: true });
});
