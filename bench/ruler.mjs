#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
// How long it takes to write RULER's thirteen tasks, and, with --upstream, how long upstream's own script takes on
// this machine in the same run; the bytes of both are compared.
//
//   node bench/ruler.mjs --data DIR [--length 4096] [--samples 100] [--task all]
//                        [--upstream RULER/scripts/data --python PYTHON]
//
// --data holds the essays and questions; upstream reads its own copies, which must be the same files. Both sides
// are started as processes of their own and timed whole: wall time, and processor time, which a busy machine
// changes less.
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const TASKS = [
  ...[
    "single_1",
    "single_2",
    "single_3",
    "multikey_1",
    "multikey_2",
    "multikey_3",
    "multivalue",
    "multiquery",
  ].map((name) => `niah_${name}`),
  ...["vt", "cwe", "fwe", "qa_1", "qa_2"],
];

const { values } = parseArgs({
  options: {
    data: { type: "string" },
    length: { type: "string", default: "4096" },
    samples: { type: "string", default: "100" },
    task: { type: "string", default: "all" },
    upstream: { type: "string" },
    python: { type: "string", default: "python3" },
    cli: { type: "string" },
    json: { type: "boolean", default: false },
  },
});
const { length, samples } = values;
const tasks = values.task === "all" ? TASKS : values.task.split(",");
const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "..");
const cli = values.cli ?? path.join(root, "dist/cli/main.js");
const folder = mkdtempSync(path.join(os.tmpdir(), "ruler-bench-"));

try {
  const ours = timed(process.execPath, [
    ...[cli, "ruler", "prepare", "--task", tasks.join(","), "--tokenizer", "cl100k_base"],
    ...["--length", length, "--samples", samples, "--output", path.join(folder, "ours")],
    ...(values.data ? ["--data", values.data] : []),
  ]);
  const upstream = values.upstream ? tasks.map(upstreamTask) : undefined;
  report(ours, upstream);
} finally {
  rmSync(folder, { recursive: true, force: true });
}

/** Runs a command; seconds of wall time and of processor time, its children's included. */
function timed(command, args, options = {}) {
  const script = 'TIMEFORMAT="%R %U %S"; time "$@" 3>&2 2>/dev/null';
  const result = spawnSync("bash", ["-c", `{ ${script}; } 2>&1 1>/dev/null`, "bash", command, ...args], {
    encoding: "utf8",
    ...options,
  });
  const [wall, user, system] = result.stdout.trim().split("\n").at(-1).split(" ").map(Number);
  return { wall, cpu: user + system };
}

function upstreamTask(task) {
  const time = timed(
    values.python,
    [
      ...[
        "prepare.py",
        "--save_dir",
        path.join(folder, "upstream"),
        "--benchmark",
        "synthetic",
        "--task",
        task,
      ],
      ...["--tokenizer_path", "cl100k_base", "--tokenizer_type", "openai", "--max_seq_length", length],
      ...["--model_template_type", "base", "--num_samples", samples, "--random_seed", "42"],
    ],
    {
      cwd: values.upstream,
      // Upstream starts its generators as plain `python`.
      env: { ...process.env, PATH: `${path.dirname(path.resolve(values.python))}:${process.env.PATH}` },
    },
  );
  const file = (side) => path.join(folder, side, task, "validation.jsonl");
  const made = existsSync(file("upstream"));
  const same = made && readFileSync(file("ours")).equals(readFileSync(file("upstream")));
  process.stderr.write(
    `${task}: upstream ${time.wall.toFixed(1)} s, ${same ? "same bytes" : made ? "OTHER BYTES" : "failed"}\n`,
  );
  return { task, ...time, same };
}

function report(ours, upstream) {
  const wall = upstream?.reduce((sum, t) => sum + t.wall, 0);
  const cpu = upstream?.reduce((sum, t) => sum + t.cpu, 0);
  const result = {
    machine: { cpu: os.cpus()[0]?.model, cores: os.availableParallelism(), node: process.version },
    ...{ tasks: tasks.length, length: Number(length), samples: Number(samples), ours },
    ...(upstream
      ? {
          upstream: { wall, cpu, tasks: upstream },
          faster: { wall: wall / ours.wall, cpu: cpu / ours.cpu },
          sameBytes: upstream.filter((t) => t.same).length,
        }
      : {}),
  };
  if (values.json) {
    console.log(JSON.stringify(result, null, 2));
    return;
  }
  console.log(`${tasks.length} tasks, ${length} tokens, ${samples} samples each, cl100k_base`);
  console.log(`${result.machine.cpu}, ${result.machine.cores} cores, Node ${process.version}`);
  console.log(`               wall s    cpu s`);
  console.log(`ours       ${ours.wall.toFixed(2).padStart(10)} ${ours.cpu.toFixed(2).padStart(8)}`);
  if (!upstream) return;
  console.log(`upstream   ${wall.toFixed(2).padStart(10)} ${cpu.toFixed(2).padStart(8)}`);
  console.log(
    `times      ${(wall / ours.wall).toFixed(1).padStart(10)} ${(cpu / ours.cpu).toFixed(1).padStart(8)}`,
  );
  console.log(`same bytes ${result.sameBytes} of ${tasks.length}`);
}
