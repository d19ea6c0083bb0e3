// SPDX-License-Identifier: Apache-2.0
// `ruler score` and `ruler report`: what the predictions are worth.

import type { Command } from "commander";
import { writeFileAtomic } from "../../../data/files.ts";
import { UsageError } from "../../exit-codes.ts";
import { defined } from "../../options.ts";
import { printJson, printLine, table } from "../../terminal.ts";

interface ScoreFlags {
  data?: string;
  ref?: string;
  pred?: string;
  taskType?: string;
  json?: boolean;
}

export function registerScore(ruler: Command): void {
  ruler
    .command("score")
    .description("Score predictions as upstream; writes summary.csv and submission.csv beside them.")
    .argument("[dir]", "folder with NAME.jsonl prediction files")
    .option("--data <dir>", "the prompts they answer: missing, doubled and strange rows are errors")
    .option("--ref <file>", "minimal tasks answered elsewhere: the prompts")
    .option("--pred <file>", "and the answers, rows of { index, pred }")
    .option("--task-type <name>", "and the task: niah, variable_tracking or common_words")
    .option("--json", "print the scores as JSON")
    .action(async (folder: string | undefined, flags: ScoreFlags) => {
      if (flags.ref !== undefined || flags.pred !== undefined) return scoreElsewhere(flags);
      if (folder === undefined) throw new UsageError("expected a folder of predictions, or --ref and --pred");
      const { averageScore, scoreFolder, writeScores } = await import("../../../ruler/score.ts");
      const scores = await scoreFolder(folder, defined({ data: flags.data }));
      const files = await writeScores(folder, scores);
      if (flags.json)
        return printJson({
          average: averageScore(scores),
          tasks: scores.map(({ task, score, nulls, metric, interval }) => ({
            task,
            score,
            nulls,
            metric,
            interval,
          })),
          files,
        });
      const rows = scores.map(({ task, score, nulls, interval: { low, high } }) => [
        task,
        score.toFixed(2),
        `[${low.toFixed(1)}, ${high.toFixed(1)}]`,
        `empty ${nulls}`,
      ]);
      printLine(table([...rows, ["average", averageScore(scores).toFixed(2), "", `${scores.length} tasks`]]));
    });
}

async function scoreElsewhere({ ref, pred, taskType, json }: ScoreFlags): Promise<void> {
  const { MINIMAL_KINDS } = await import("../../../ruler/minimal/generate.ts");
  if (ref === undefined || pred === undefined) throw new UsageError("--ref and --pred: expected both");
  if (!(MINIMAL_KINDS as readonly string[]).includes(taskType ?? ""))
    throw new UsageError(
      `--task-type: expected one of ${MINIMAL_KINDS.join(", ")}, got ${taskType ?? "none"}`,
    );
  const { scoreMinimalFiles } = await import("../../../ruler/minimal/evaluate.ts");
  const score = await scoreMinimalFiles(taskType!, ref, pred);
  if (json) return printJson(score);
  const { samples, overlap, recall, precision, exact, interval } = score;
  const range = `[${interval.low.toFixed(1)}, ${interval.high.toFixed(1)}]`;
  const cells = [
    ["samples", String(samples)],
    ["overlap", `${overlap.toFixed(2)} ${range}`],
  ];
  for (const [name, value] of Object.entries({ recall, precision, exact }))
    cells.push([name, value.toFixed(2)]);
  printLine(table(cells));
}

interface ReportFlags {
  output: string;
  title?: string;
  data?: string;
  json?: boolean;
}

export function registerReport(ruler: Command): void {
  ruler
    .command("report")
    .description("One self-contained page of several runs: score by task and length, steered against not.")
    .argument("<dirs...>", "output folders of `ruler run`, or folders of them")
    .option("-o, --output <file>", "the page", "ruler-report.html")
    .option("--title <text>", "heading of the page")
    .option("--data <dir>", "check predictions against these prompts first")
    .option("--json", "print the numbers as JSON")
    .action(async (folders: string[], flags: ReportFlags) => {
      const { buildReport, openRuns } = await import("../../../ruler/report.ts");
      const { reportPage } = await import("../../../ruler/report-page.ts");
      const report = buildReport(await openRuns(folders, flags.data));
      await writeFileAtomic(flags.output, [reportPage(report, defined({ title: flags.title }))]);
      if (flags.json) return printJson({ file: flags.output, ...report });
      printLine(flags.output);
    });
}
