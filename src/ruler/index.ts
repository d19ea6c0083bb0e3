// SPDX-License-Identifier: Apache-2.0
// The public names of `chatspace-steer/ruler`.

export { type CostOptions, type CostRow, measureCost } from "./cost.ts";
export { DATA_SOURCES, type FetchedPart, type FetchOptions, fetchData } from "./data/fetch.ts";
export { type DataPart, type HaystackOptions, type Haystacks, openHaystacks } from "./data/haystacks.ts";
export { type GenerateOptions, generateRows, leastLength, rowLine } from "./generate.ts";
export { type EndpointOptions, endpointGenerator } from "./generators/endpoint.ts";
export { type SteerModelGeneratorOptions, steerModelGenerator } from "./generators/steer-model.ts";
export { type MinimalScore, scoreMinimalFiles } from "./minimal/evaluate.ts";
export { type MinimalOptions, type MinimalRow, minimalRows } from "./minimal/generate.ts";
export { type PrepareMinimalOptions, prepareMinimal } from "./minimal/prepare.ts";
export { type SetMatch, setMatch } from "./minimal/score.ts";
export { type DataRow, type PredictionRow, readDataRows, readPredictions } from "./predictions.ts";
export { type PreparedTask, type PrepareOptions, prepareTasks } from "./prepare.ts";
export { NumpyRandom } from "./random/numpy.ts";
export { PythonRandom } from "./random/python.ts";
export { buildReport, openRuns, type Report, type ReportRun } from "./report.ts";
export { reportPage } from "./report-page.ts";
export {
  type FinishedTask,
  type GenerateCall,
  type Generator,
  type RulerPrompt,
  type RunOptions,
  type RunProgress,
  type RunRecord,
  runTasks,
} from "./run.ts";
export {
  averageScore,
  cleanPrediction,
  meanScore,
  type ScoredRow,
  type ScoreOptions,
  sampleScore,
  scoreFolder,
  scoreTask,
  submissionCsv,
  summaryCsv,
  type TaskScore,
  writeScores,
} from "./score.ts";
export { type BootstrapOptions, bootstrapDifference, bootstrapMean, type Interval } from "./statistics.ts";
export type { RulerRow } from "./tasks/setting.ts";
export { type Metric, MINIMAL_TASKS, RULER_TASKS, type RulerTask, selectTasks } from "./tasks/table.ts";
export { MODEL_TEMPLATES } from "./tasks/templates.ts";
export { sentences } from "./text/punkt.ts";
export type { TokenCounter } from "./tokens/counter.ts";
export { modelCounter } from "./tokens/model.ts";
export { selectTokenizer } from "./tokens/select.ts";
