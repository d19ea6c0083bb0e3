// SPDX-License-Identifier: Apache-2.0
// Prediction files with missing, doubled or broken rows: each fault has its code and its line. Then what good
// files are worth: intervals, the minimal tasks' sets, the report page.
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { signFlip } from "../../src/ruler/cost.ts";
import { scoreMinimalFiles } from "../../src/ruler/minimal/evaluate.ts";
import { minimalRows } from "../../src/ruler/minimal/generate.ts";
import { prepareMinimal } from "../../src/ruler/minimal/prepare.ts";
import { setMatch } from "../../src/ruler/minimal/score.ts";
import { buildReport, openRuns } from "../../src/ruler/report.ts";
import { reportPage } from "../../src/ruler/report-page.ts";
import { type Generator, runTasks } from "../../src/ruler/run.ts";
import { cleanPrediction, scoreFolder, summaryCsv, writeScores } from "../../src/ruler/score.ts";
import { bootstrapDifference, bootstrapMean } from "../../src/ruler/statistics.ts";

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "ruler-scores-"));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

const row = (i: number, pred: string, more: object = {}) =>
  JSON.stringify({
    index: i,
    pred,
    input: `prompt ${i}`,
    outputs: ["yes"],
    others: {},
    truncation: -1,
    length: 9,
    ...more,
  });
const dataRow = (i: number) =>
  JSON.stringify({ index: i, input: `prompt`, answer_prefix: ` ${i}`, outputs: ["yes"], length: 9 });

async function write(file: string, lines: readonly string[]): Promise<void> {
  await mkdir(join(folder, file, ".."), { recursive: true });
  await writeFile(join(folder, file), lines.map((line) => `${line}\n`).join(""));
}

describe("a prediction file", () => {
  const broken: Record<string, string> = {
    "that is cut off": row(1, "yes").slice(0, 30),
    "of another kind": "[1, 2]",
    "with no prediction": JSON.stringify({ index: 1, input: "prompt 1", outputs: ["yes"] }),
    "with a number for a prediction": row(1, 7 as never),
    "with no outputs to compare": row(1, "yes", { outputs: [] }),
    "with no index": row(1, "yes", { index: null }),
  };
  for (const [what, line] of Object.entries(broken))
    it(`with a row ${what} is refused by line`, async () => {
      await write("vt.jsonl", [row(0, "yes"), line, row(2, "no")]);
      await expect(scoreFolder(folder)).rejects.toMatchObject({
        name: "DataError",
        code: "ERR_RULER_PREDICTION_ROW",
        details: { line: 2 },
      });
    });

  it("with a doubled row is refused with both lines", async () => {
    await write("vt.jsonl", [row(0, "yes"), row(1, "no"), row(0, "no")]);
    await expect(scoreFolder(folder)).rejects.toMatchObject({
      code: "ERR_RULER_PREDICTION_DOUBLED",
      details: { lines: [1, 3] },
    });
  });

  it("may repeat an index of upstream's needle data where the prompt differs", async () => {
    await write("niah_single_1.jsonl", [row(7, "yes"), row(7, "no", { input: "another" })]);
    expect((await scoreFolder(folder))[0]!.score).toBe(50);
  });

  it("with missing or strange rows is refused against its data", async () => {
    await write("data/vt/validation.jsonl", [0, 1, 2].map(dataRow));
    await write("out/vt.jsonl", [row(0, "yes"), row(2, "yes")]);
    const data = join(folder, "data");
    await expect(scoreFolder(join(folder, "out"), { data })).rejects.toMatchObject({
      code: "ERR_RULER_PREDICTION_MISSING",
      details: { missing: 1, strange: 0, dataLines: [2] },
    });
    await write(
      "out/vt.jsonl",
      [0, 1, 2, 3].map((i) => row(i, "yes")),
    );
    await expect(scoreFolder(join(folder, "out"), { data })).rejects.toMatchObject({
      code: "ERR_RULER_PREDICTION_MISSING",
      details: { missing: 0, strange: 1 },
    });
    await write("data/vt/validation.jsonl", ['{"index": 0}']);
    await expect(scoreFolder(join(folder, "out"), { data })).rejects.toMatchObject({
      code: "ERR_RULER_DATA_ROW",
    });
  });

  it("beside its own chunks is refused; a folder with none is named", async () => {
    await write("vt.jsonl", [row(0, "yes")]);
    await write("vt-0.jsonl", [row(1, "yes")]);
    await expect(scoreFolder(folder)).rejects.toMatchObject({ code: "ERR_RULER_PREDICTION_DOUBLED" });
    await mkdir(join(folder, "empty"));
    await expect(scoreFolder(join(folder, "empty"))).rejects.toMatchObject({
      code: "ERR_RULER_NO_PREDICTIONS",
    });
    await expect(scoreFolder(join(folder, "nowhere"))).rejects.toMatchObject({ code: "ERR_FILE_UNREADABLE" });
  });

  it("of one task gives summary-NAME.csv, empty answers counted", async () => {
    await write("vt.jsonl", [row(0, " \u0001\n"), row(1, "well, YES")]);
    const scores = await scoreFolder(folder);
    expect(summaryCsv(scores)).toBe("0,1\nTasks,vt\nScore,50.0\nNulls,1/2\n");
    expect((await writeScores(folder, scores))!.summary).toMatch(/summary-vt\.csv$/);
    expect(cleanPrediction("\u001c a\tb \u0000")).toBe("a\nb");
  });
});

describe("minimal tasks", () => {
  it("give the same context in both forms, with its answers in it", () => {
    for (const kind of ["niah", "variable_tracking", "common_words"]) {
      const rows = minimalRows(kind, { samples: 3, keys: 2, valuesPerKey: 2 });
      expect(rows).toEqual(minimalRows(kind, { samples: 3, keys: 2, valuesPerKey: 2 }));
      for (const { input, outputs, input_memory_content, input_memory_instruction } of rows) {
        const context = /^<\|memory_start\|> (.*) <\|memory_end\|>$/s.exec(input_memory_content)![1]!;
        expect(input_memory_instruction.replace("<|fim_pad|>", () => context)).toBe(input);
        for (const item of outputs[0].split(/[,;:] /)) expect(context).toContain(item);
        expect(setMatch(kind, outputs[0], outputs[0], input)).toMatchObject({ overlap: 1, exact: true });
      }
    }
    expect(() => minimalRows("nia")).toThrow(expect.objectContaining({ code: "ERR_RULER_TASK" }));
    expect(() => minimalRows("niah", { keys: 0 })).toThrow(
      expect.objectContaining({ code: "ERR_RULER_OPTION" }),
    );
  });

  it("defect 10: count every value of several, in any order, and what was named wrongly", () => {
    const reference = "abcdef: 111111, 222222; ghijkl: 333333";
    const score = (text: string) => setMatch("minimal_niah", reference, text, "");
    expect(score("333333 and 222222, 111111")).toMatchObject({ overlap: 1, exact: true });
    expect(score("111,111")).toMatchObject({ recall: 1 / 3, precision: 1, exact: false });
    expect(score("111111 222222 333333 999999")).toMatchObject({ recall: 1, overlap: 3 / 4, exact: false });
    expect(score("none").overlap).toBe(0);
    const context = "1. cat 2. dog 3. cow";
    expect(setMatch("common_words", "cat, dog", "The dog; the cat.", context).overlap).toBe(1);
    expect(setMatch("common_words", "cat, dog", "cat, cow", context).overlap).toBe(1 / 3);
  });

  it("are prepared, run and scored as the others, but stay out of summary.csv", async () => {
    const data = join(folder, "data");
    await prepareMinimal({ task: "niah", output: data, samples: 2, keys: 2 });
    await expect(prepareMinimal({ task: "niah", output: data })).rejects.toMatchObject({
      code: "ERR_RULER_OUTPUT_EXISTS",
    });
    const answers: Generator = {
      ...{ identity: { model: "reader" }, batch: 2, concurrency: 1 },
      generate: async (prompts) => prompts.map((p) => p.text.match(/\d{6}/g)!.join(" and ")),
    };
    await runTasks({ data, output: join(folder, "out"), generator: answers });
    const scores = await scoreFolder(join(folder, "out"), { data });
    expect(scores).toMatchObject([{ task: "minimal_niah", score: 100, metric: "set_match" }]);
    expect(await writeScores(join(folder, "out"), scores)).toBeUndefined();
  });
});

describe("minimal tasks answered elsewhere", () => {
  const ref = (i: number, output: string) =>
    JSON.stringify({ index: i, input: "1. cat 2. dog", outputs: [output] });
  const pred = (i: number, text: unknown) => JSON.stringify({ index: i, pred: text });
  const score = () => scoreMinimalFiles("niah", join(folder, "ref.jsonl"), join(folder, "pred.jsonl"));

  it("are joined by index and scored on sets", async () => {
    await write("ref.jsonl", [ref(0, "ab: 111111, 222222"), ref(1, "cd: 333333")]);
    await write("pred.jsonl", [pred(1, "333333"), pred(0, "222222 it is")]);
    expect(await score()).toMatchObject({ samples: 2, overlap: 75, recall: 75, precision: 100, exact: 50 });
  });

  it("are refused with missing, strange, doubled or broken rows", async () => {
    await write("ref.jsonl", [ref(0, "ab: 111111"), ref(1, "cd: 333333")]);
    const refused = async (lines: string[], code: string) => {
      await write("pred.jsonl", lines);
      await expect(score()).rejects.toMatchObject({ name: "DataError", code });
    };
    await refused([pred(0, "x")], "ERR_RULER_PREDICTION_MISSING");
    await refused([pred(0, "x"), pred(1, "x"), pred(2, "x")], "ERR_RULER_PREDICTION_MISSING");
    await refused([pred(0, "x"), pred(0, "x")], "ERR_RULER_PREDICTION_DOUBLED");
    await refused([pred(0, 1)], "ERR_RULER_PREDICTION_ROW");
    await refused(['{"index": 0, "pr'], "ERR_RULER_PREDICTION_ROW");
    await write("ref.jsonl", ["{}"]);
    await expect(score()).rejects.toMatchObject({ code: "ERR_RULER_DATA_ROW" });
  });
});

describe("intervals", () => {
  it("hold the mean, repeat, and close on equal values", () => {
    const values = Array.from({ length: 60 }, (_, i) => (i % 3 === 0 ? 100 : 0));
    const interval = bootstrapMean(values);
    expect(interval).toEqual(bootstrapMean(values));
    expect(interval.low).toBeLessThan(interval.mean);
    expect(interval.high).toBeGreaterThan(interval.mean);
    expect(bootstrapMean([100, 100])).toEqual({ mean: 100, low: 100, high: 100, count: 2 });
    const difference = bootstrapDifference([1, 2, 3], [0, 1, 2]);
    expect(difference).toMatchObject({ mean: -1, low: -1, high: -1 });
  });

  it("come with a p-value that is exact for few pairs", () => {
    expect(signFlip([0, 0, 0])).toBe(1);
    expect(signFlip([1, 1, 1, 1, 1])).toBe(2 / 32);
    expect(signFlip([1, -1])).toBe(1);
    expect(signFlip(Array.from({ length: 40 }, () => -1))).toBeLessThan(0.001);
  });
});

describe("the report", () => {
  async function makeRun(name: string, label: string, length: number, preds: string[], steered: boolean) {
    await write(
      `${name}/vt.jsonl`,
      preds.map((pred, i) => row(i, pred)),
    );
    const generator = { kind: "model", steering: steered ? [{ layer: 1 }] : [] };
    await write(`${name}/run.json`, [JSON.stringify({ label, length, tasks: ["vt"], generator })]);
  }

  it("puts runs side by side on one page that needs nothing else", async () => {
    await makeRun("runs/a", "plain", 1024, ["yes", "yes", "no", "yes"], false);
    await makeRun("runs/b", "happy & <b>", 1024, ["yes", "no", "no", "no"], true);
    await makeRun("runs/c", "plain", 4096, ["yes", "no", "no", "no"], false);
    const report = buildReport(await openRuns([join(folder, "runs")]));
    expect(report).toMatchObject({ labels: ["plain", "happy & <b>"], lengths: [1024, 4096], tasks: ["vt"] });
    expect(report.cells.map((c) => c.score)).toEqual([75, 25, 25]);
    expect(report.differences).toMatchObject([{ length: 1024, interval: { mean: -50, count: 4 } }]);
    expect(report.overall[0]).toEqual({
      ...{ label: "plain", mean: 50, longer: (75 + 2 * 25) / 3, shorter: (2 * 75 + 25) / 3 },
      effectiveLength: undefined,
    });
    const page = reportPage(report);
    expect(page).not.toMatch(/(src|href)=|https?:|<b>happy|@import|url\(/);
    expect(page.match(/<svg/g)).toHaveLength(2);
    expect(page).toContain("happy &#38; &#60;b&#62;");
    expect(page).toContain("n 4");
    expect(page).toContain("-50.00");
  });

  it("refuses two runs of one name and length", async () => {
    await makeRun("runs/a", "plain", 1024, ["yes"], false);
    await makeRun("runs/b", "plain", 1024, ["no"], false);
    const runs = await openRuns([join(folder, "runs")]);
    expect(() => buildReport(runs)).toThrow(expect.objectContaining({ code: "ERR_RULER_REPORT" }));
    await expect(openRuns([join(folder, "runs/a/nothing")])).rejects.toMatchObject({
      code: "ERR_FILE_UNREADABLE",
    });
  });
});
