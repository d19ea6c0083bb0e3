// SPDX-License-Identifier: Apache-2.0
// `ruler`: long-context evaluation. Data, prompts, answers, scores, a report, and what a vector costs.

import type { Command } from "commander";
import { registerCost } from "./ruler/cost.ts";
import { registerData } from "./ruler/data.ts";
import { registerPrepare } from "./ruler/prepare.ts";
import { registerRun } from "./ruler/run.ts";
import { registerReport, registerScore } from "./ruler/score.ts";

export function register(program: Command): void {
  const ruler = program
    .command("ruler")
    .description("Measure long-context ability with RULER, steered or not.");
  registerData(ruler);
  registerPrepare(ruler);
  registerRun(ruler);
  registerScore(ruler);
  registerReport(ruler);
  registerCost(ruler);
}
