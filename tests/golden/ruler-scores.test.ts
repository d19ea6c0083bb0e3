// SPDX-License-Identifier: Apache-2.0
// Scores and tables against upstream's evaluator on recorded predictions.
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import {
  meanScore,
  roundTwo,
  sampleScore,
  scoreFolder,
  submissionCsv,
  summaryCsv,
} from "../../src/ruler/score.ts";
import { goldenJson, goldenRoot, goldenText, hasGolden } from "./ruler-golden.ts";

describe.skipIf(!hasGolden)("scores as upstream's evaluator gives them", () => {
  for (const folder of ["pred_seed42_4096", "pred_seed42_4096_before"])
    it(`${folder}: summary.csv and submission.csv, byte for byte`, async () => {
      const scores = await scoreFolder(fileURLToPath(new URL(`eval/${folder}/`, goldenRoot)));
      expect(summaryCsv(scores)).toBe(goldenText("eval/pred_seed42_4096/summary.csv"));
      expect(submissionCsv(scores)).toBe(goldenText("eval/pred_seed42_4096/submission.csv"));
    });

  it("gives the recorded value for every metric case", () => {
    const cases = goldenJson("eval/metric_cases.json") as Array<{
      preds: string[];
      refs: string[][];
      all: number;
      part: number;
    }>;
    for (const { preds, refs, all, part } of cases) {
      const of = (metric: "string_match_all" | "string_match_part") =>
        meanScore(preds.map((pred, i) => sampleScore(metric, pred, refs[i]!)));
      expect(of("string_match_all"), JSON.stringify(preds)).toBe(all);
      expect(of("string_match_part"), JSON.stringify(preds)).toBe(part);
    }
  });
});

describe("rounding to two places", () => {
  it("takes exact ties to the even neighbour, as Python does", () => {
    expect([3.125, 3.375, 0.625, 66.875, 2.675, 1.005].map(roundTwo)).toEqual([
      3.12, 3.38, 0.62, 66.88, 2.67, 1,
    ]);
  });
});
