#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
// One command for a machine with a GPU: builds both halves, runs the GPU tests and benchmarks, writes a
// table. Where there is no GPU it compiles the CUDA half and says that nothing was run.
import fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { capture, run, say } from "./lib/run.mjs";

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "..");

const usage = `Usage: node scripts/gpu-check.mjs [options]
  --report FILE    where the table goes (default build/gpu-check.md)
  --no-build       take what is built
  --no-bench       tests only
  --sanitize       run the tests under compute-sanitizer (from a CUDA toolkit) too; slow
  --model NAME     model of the benchmarks (default smollm2-135m-instruct)`;

/** Devices as the driver names them: "name, memory, driver version". */
async function devices() {
  const answer = await capture("nvidia-smi", [
    "--query-gpu=name,memory.total,driver_version",
    "--format=csv,noheader",
  ]);
  return answer.ok ? answer.stdout.trim().split("\n").filter(Boolean) : [];
}

const node = (script, ...args) => run(process.execPath, [path.join(root, script), ...args], { cwd: root });

async function build(withGpu) {
  if (withGpu) {
    // To run, the addon needs the libtorch with CUDA; this makes it vendor/libtorch.
    await node("scripts/fetch-libtorch.mjs", "--cuda");
    await node("scripts/build-ts.mjs");
    await node("scripts/build-native.mjs");
  }
  await node("scripts/build-cuda.mjs");
}

/** Runs vitest on tests/gpu; gives { rows, ok }. */
async function runTests() {
  const file = path.join(root, "build", "gpu-tests.json");
  fs.rmSync(file, { force: true });
  const vitest = path.join(root, "node_modules", "vitest", "vitest.mjs");
  let ok = true;
  try {
    await run(
      process.execPath,
      [vitest, "run", "tests/gpu", "--reporter=default", "--reporter=json", `--outputFile=${file}`],
      {
        cwd: root,
      },
    );
  } catch (error) {
    ok = false;
    say(error.message);
  }
  if (!fs.existsSync(file)) return { ok: false, rows: [] };
  const { testResults } = JSON.parse(fs.readFileSync(file, "utf8"));
  const rows = testResults.flatMap(({ assertionResults }) =>
    assertionResults.map(({ fullName, status, duration }) => [
      fullName,
      status,
      `${Math.round(duration ?? 0)} ms`,
    ]),
  );
  // A skipped test has shown nothing: on this machine all of them must have run.
  return { ok: ok && rows.length > 0 && rows.every(([, status]) => status === "passed"), rows };
}

async function runBench(model) {
  const answer = await capture(
    process.execPath,
    [path.join(root, "scripts/lib/gpu-bench.mjs"), "--model", model],
    {
      cwd: root,
      timeoutMs: 1_200_000,
      onStderr: (text) => process.stderr.write(text),
    },
  );
  const lines = answer.stdout
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line));
  const speeds = lines
    .filter((line) => line.tokensPerSecond !== undefined)
    .map((row) => [row.load, row.batch, row.case, row.tokensPerSecond.toFixed(1), row.cost]);
  const prompts = lines
    .filter((line) => line.promptTokensPerSecond !== undefined)
    .map((row) => [row.load, row.prompt, row.promptTokensPerSecond.toFixed(1), row.cost, row.flashLayers]);
  const models = lines
    .filter((line) => line.weightBytes !== undefined)
    .map((row) => [
      row.load,
      `${(row.weightBytes / 1e6).toFixed(1)} MB`,
      row.graphsRecorded,
      row.graphSteps,
      row.graphOverflows,
    ]);
  const peer = lines.find((line) => line.peer === null);
  return { ok: answer.ok, reason: answer.reason, speeds, prompts, models, noPeer: peer?.reason };
}

function table(head, rows) {
  const line = (cells) => `| ${cells.join(" | ")} |`;
  return [line(head), line(head.map(() => "---")), ...rows.map(line)].join("\n");
}

async function main() {
  const { values: option } = parseArgs({
    options: {
      report: { type: "string", default: "build/gpu-check.md" },
      "no-build": { type: "boolean", default: false },
      "no-bench": { type: "boolean", default: false },
      sanitize: { type: "boolean", default: false },
      model: { type: "string", default: "smollm2-135m-instruct" },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  if (option.help) {
    process.stdout.write(`${usage}\n`);
    return;
  }
  const found = await devices();
  if (!option["no-build"]) await build(found.length > 0);
  if (found.length === 0) {
    say("No CUDA device on this machine: the CUDA half was compiled and linked, nothing was run.");
    return;
  }
  say(`CUDA devices: ${found.join("; ")}`);
  const tests = await runTests();
  let sanitized = null;
  if (option.sanitize) {
    const vitest = path.join(root, "node_modules", "vitest", "vitest.mjs");
    sanitized = await run("compute-sanitizer", [
      ...["--target-processes", "all", "--error-exitcode", "1", process.execPath, vitest, "run", "tests/gpu"],
      ...["--testTimeout=1200000", "--hookTimeout=1200000"],
    ]).then(
      () => "no errors",
      (error) => error.message,
    );
  }
  const bench = option["no-bench"] ? null : await runBench(option.model);
  const report = [
    "# GPU check",
    `${new Date().toISOString()}, ${found.join("; ")}`,
    "## Tests",
    table(["test", "result", "time"], tests.rows),
    ...(sanitized === null ? [] : ["## compute-sanitizer", sanitized]),
    ...(bench === null
      ? []
      : [
          `## Decode of ${option.model}, 64 tokens after a prompt of 64, median of 3 rounds in turns`,
          table(["loaded as", "batch", "steering", "tokens/s", "cost"], bench.speeds),
          ...(bench.noPeer === undefined ? [] : [`No peer was measured: ${bench.noPeer}.`]),
          table(
            ["loaded as", "weights", "graphs recorded", "steps replayed", "steps over capacity"],
            bench.models,
          ),
          "Prompts alone, unsteered, in turns; cost against our own attention:",
          table(["loaded as", "tokens", "tokens/s", "cost", "layers by flash attention"], bench.prompts),
          ...(bench.ok ? [] : [`The benchmark failed: ${bench.reason}`]),
        ]),
  ].join("\n\n");
  const file = path.resolve(root, option.report);
  fs.mkdirSync(path.dirname(file), { recursive: true });
  fs.writeFileSync(file, `${report}\n`);
  process.stdout.write(`${report}\n`);
  say(`written to ${path.relative(root, file)}`);
  const good = tests.ok && (sanitized === null || sanitized === "no errors") && (bench?.ok ?? true);
  if (!good) process.exitCode = 1;
}

main().catch((error) => {
  say(`gpu-check: ${error.message}`);
  process.exitCode = error.code?.startsWith?.("ERR_PARSE_ARGS") ? 2 : 1;
});
