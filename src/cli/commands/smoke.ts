// SPDX-License-Identifier: Apache-2.0
// `smoke`: does steering work here? One command that can fail.

import type { Command } from "commander";
import type { SteerModel } from "../../model/steer-model.ts";
import type { SteeringVector } from "../../steering/vector.ts";
import { EXIT, ExitError } from "../exit-codes.ts";
import { interruptible } from "../interrupt.ts";
import {
  addModelOptions,
  integer,
  loadModel,
  type ModelFlags,
  naturalNumber,
  number,
  positiveInteger,
} from "../options.ts";
import type { SmokeReport } from "../smoke-run.ts";
import { note, printJson, printLine, styled } from "../terminal.ts";

interface Flags extends ModelFlags {
  prompt: string;
  layer?: number;
  scale?: number;
  vector?: string;
  maxTokens: number;
  seed: number;
  json?: boolean;
}

/** The vector that ships for the default model, and where it acts well. */
const DEFAULT_VECTOR = "happy";
const DEFAULT_LAYER = 16;
const DEFAULT_SCALE = 2;

export function register(program: Command): void {
  addModelOptions(program.command("smoke"))
    .description(
      "Run a prompt plain, steered and plain again; pass only if steering acted as asked and left no trace.",
    )
    .option("-p, --prompt <text>", "prompt", "Once upon a time, in a small village by the sea,")
    .option("-l, --layer <n>", "layer to steer, 0-based, -1 = last (default: 16, or the middle one)", integer)
    .option("-s, --scale <number>", "strength (default: 2)", number)
    .option("-v, --vector <name|file>", "vector (default: happy, or one made here for other models)")
    .option("-n, --max-tokens <n>", "tokens to generate", positiveInteger, 40)
    .option("--seed <n>", "seed", naturalNumber, 0)
    .option("--json", "print the report as JSON")
    .addHelpText(
      "after",
      `
Examples:
  $ chatspace-steer smoke --layer 16                     the default model, pulled once
  $ chatspace-steer smoke --model stories260k            a tiny model that is in the package
  $ chatspace-steer smoke -v calm -s -3 -l 12 --json

Exits 0 only if the steered answer differs, the restored one is identical token for token, and the
vector acted with the norm asked for (counted where the addition happens) to 1e-3.`,
    )
    .action((flags: Flags) => interruptible((signal) => smoke(flags, signal)));
}

async function smoke(flags: Flags, signal: AbortSignal): Promise<void> {
  const model = await loadModel(flags, signal);
  try {
    const { runSmoke } = await import("../smoke-run.ts");
    const { layers } = model.info;
    const layer = flags.layer ?? (layers > DEFAULT_LAYER ? DEFAULT_LAYER : layers >> 1);
    const vector = await chooseVector(model, flags.vector, layer, signal);
    const { prompt, maxTokens, seed } = flags;
    const scale = flags.scale ?? DEFAULT_SCALE;
    const report = await runSmoke(model, { prompt, layer, scale, vector, maxTokens, seed, signal });
    if (flags.json) printJson(report);
    else printReport(report);
    if (!report.passed) throw new ExitError(EXIT.failed);
  } finally {
    await model.dispose();
  }
}

async function chooseVector(
  model: SteerModel,
  named: string | undefined,
  layer: number,
  signal: AbortSignal,
): Promise<SteeringVector> {
  const { listNamedVectors, resolveVector } = await import("../../steering/vector-names.ts");
  if (named !== undefined) return resolveVector(named);
  const index = layer < 0 ? model.info.layers + layer : layer;
  const ships = (await listNamedVectors()).some((entry) => entry.name === DEFAULT_VECTOR);
  if (ships) {
    const vector = await resolveVector(DEFAULT_VECTOR);
    if (vector.width === model.info.hiddenSize && vector.has(index)) return vector;
  }
  const { contrastVector } = await import("../smoke-run.ts");
  note(`no vector ships for ${model.info.name}: making happy - sad at layer ${index} from eight sentences`);
  return contrastVector(model, layer, signal);
}

function printReport(report: SmokeReport): void {
  const head = (text: string) => styled(process.stdout, "bold", text);
  const { logprob, norm, checks } = report;
  printLine(`${head("model")}      ${report.model}, ${report.dtype} on ${report.device}`);
  printLine(`${head("program")}    add ${report.scale} x ${report.vector} at layer ${report.layer}`);
  printLine(`${head("prompt")}     ${report.prompt}`);
  for (const name of ["baseline", "steered", "restored"] as const) {
    const { text, tokens, ms } = report[name];
    printLine(`\n${head(name)} (${tokens.length} tokens, ${ms.toFixed(0)} ms)`);
    printLine(text.trim());
  }
  printLine();
  const shift = `${logprob.baseline.toFixed(4)} -> ${logprob.steered.toFixed(4)} (${logprob.shift.toFixed(4)})`;
  printLine(`${head("logprob")}    of the baseline's tokens, mean per token: ${shift}`);
  printLine(
    `${head("norm")}       asked ${norm.asked.toFixed(5)}, applied ${norm.applied.toFixed(5)} (relative error ${norm.relativeError.toExponential(1)})`,
  );
  printLine(`${head("rows")}       ${report.rowsTouched} touched`);
  const lines: [boolean, string][] = [
    [checks.steeredDiffers, "the steered answer differs from the baseline"],
    [checks.restoredIsIdentical, "the restored answer is the baseline, token for token"],
    [checks.rowsWereTouched, "the operation touched rows"],
    [checks.normMatches, "the norm that acted is the norm asked for"],
  ];
  for (const [ok, text] of lines)
    printLine(
      `${ok ? styled(process.stdout, "green", "ok  ") : styled(process.stdout, "red", "FAIL")} ${text}`,
    );
  printLine(
    report.passed ? styled(process.stdout, "green", "passed") : styled(process.stdout, "red", "failed"),
  );
}
