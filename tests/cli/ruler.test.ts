// SPDX-License-Identifier: Apache-2.0
// RULER from the command line, whole: prompts, answers of the small model, scores, report, cost, and its mistakes.
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { SteeringVector } from "../../src/steering/vector.ts";
import { cli, ensureBuilt } from "./run-cli.ts";

const MODEL = ["-m", "stories260k", "--device", "cpu"];
const program = fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "chatspace-ruler-"));
const file = (name: string) => join(folder, name);

beforeAll(async () => {
  await ensureBuilt();
  const direction = Float32Array.from({ length: 64 }, (_, i) => Math.sin(i));
  await new SteeringVector({ directions: new Map([[2, direction]]) }).save(file("wave.safetensors"));
}, 180_000);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe("ruler", () => {
  test("prepare writes upstream's layout and says where text came from", async () => {
    const args = [
      "--task",
      "niah_single_2,vt,qa_1",
      "--length",
      "1.5k",
      "--samples",
      "2",
      "-o",
      file("data"),
      "--json",
    ];
    const { code, stdout, stderr } = await cli(["ruler", "prepare", ...args]);
    expect(code).toBe(0);
    const made = JSON.parse(stdout) as Array<{ task: string; file: string; sources: object }>;
    expect(made.map((m) => m.task)).toEqual(["niah_single_2", "vt", "qa_1"]);
    expect(made[0]!.sources).toEqual({ essays: "built-in" });
    expect(readFileSync(file("data/vt/validation.jsonl"), "utf8").split("\n")).toHaveLength(3);
    expect(stderr).toContain("niah_single_2: 2 samples");
    const again = await cli(["ruler", "prepare", ...args]);
    expect((JSON.parse(again.stdout) as Array<{ kept: boolean }>).every((m) => m.kept)).toBe(true);
  });

  test("mistakes end with their code", async () => {
    const fails = async (args: string[], code: number, name: string) => {
      const result = await cli(["ruler", ...args, "--json"]);
      expect([result.code, JSON.parse(result.stdout).error.code]).toEqual([code, name]);
    };
    await fails(["prepare", "--task", "nihah_single_1", "-o", file("x")], 2, "ERR_RULER_TASK");
    await fails(["prepare", "--task", "vt", "--length", "300", "-o", file("x")], 4, "ERR_RULER_LENGTH");
    await fails(["prepare", "--tokenizer", file("none"), "-o", file("x")], 4, "ERR_RULER_TOKENIZER");
    await fails(["score", folder], 4, "ERR_RULER_NO_PREDICTIONS");
    await fails(
      ["run", "--data", file("none"), "-o", file("x"), "--endpoint", "http://127.0.0.1:9/v1"],
      4,
      "ERR_RULER_NO_DATA",
    );
  });

  test("minimal prompts, answered with and without a vector, scored and reported", async () => {
    const data = file("minimal");
    await cli([
      "ruler",
      "prepare",
      "--minimal",
      "--task",
      "niah",
      "--length",
      "40",
      "--samples",
      "3",
      "-o",
      data,
    ]);
    const run = (name: string, more: string[]) =>
      cli([
        "ruler",
        "run",
        "--data",
        data,
        "-o",
        file(`runs/${name}`),
        ...MODEL,
        "-n",
        "8",
        "--json",
        ...more,
      ]);
    expect((await run("plain", ["--label", "plain"])).code).toBe(0);
    const steered = await run("wave", ["-v", file("wave.safetensors"), "-s", "2", "--label", "wave"]);
    expect(JSON.parse(steered.stdout)).toMatchObject([{ task: "minimal_niah", rows: 3, resumed: 0 }]);
    expect((await run("plain", ["--label", "plain"])).code).toBe(4);
    const resumed = await run("plain", ["--label", "plain", "--resume"]);
    expect(JSON.parse(resumed.stdout)).toMatchObject([{ resumed: 3 }]);

    const score = await cli(["ruler", "score", file("runs/plain"), "--data", data, "--json"]);
    expect(JSON.parse(score.stdout).tasks).toMatchObject([{ task: "minimal_niah", metric: "set_match" }]);
    const report = await cli(["ruler", "report", file("runs"), "-o", file("report.html"), "--json"]);
    const { labels, differences } = JSON.parse(report.stdout);
    expect(labels).toEqual(["plain", "wave"]);
    expect(differences).toHaveLength(1);
    expect(readFileSync(file("report.html"), "utf8")).toMatch(/^<!doctype html>/);
  }, 120_000);

  test("cost compares the same prompts", async () => {
    writeFileSync(
      file("program.json"),
      JSON.stringify([{ layer: 2, vector: file("wave.safetensors"), scale: 3 }]),
    );
    const args = ["--task", "fwe", "--lengths", "480", "--samples", "2", "-n", "4", "-o", file("cost")];
    const { code, stdout } = await cli([
      ...[
        "ruler",
        "cost",
        ...MODEL,
        "--steering",
        file("program.json"),
        ...args,
        "--counter",
        "cl100k_base",
        "--json",
      ],
    ]);
    // The small model's own tokens are many more than the 480 of cl100k: its context is too short, and it says so.
    expect([code, JSON.parse(stdout).error.code]).toEqual([2, "ERR_PROMPT_TOO_LONG"]);
    // Nothing was answered, but the run has begun: it is not overwritten unasked.
    const again = await cli([
      "ruler",
      "cost",
      ...MODEL,
      "--steering",
      file("program.json"),
      ...args,
      "--json",
    ]);
    expect(JSON.parse(again.stdout).error.code).toBe("ERR_RULER_OUTPUT_EXISTS");
    const own = await cli([
      ...["ruler", "cost", ...MODEL, "--steering", file("program.json"), ...args, "--overwrite", "--json"],
    ]);
    expect(own.code).toBe(0);
    const { rows } = JSON.parse(own.stdout);
    expect(rows).toMatchObject([{ task: "fwe", length: 480, samples: 2, difference: { count: 2 } }]);
    expect(existsSync(file("cost/480/steered/fwe.jsonl"))).toBe(true);
  }, 120_000);
});

describe("ruler run, killed outright", () => {
  test("goes on with what was answered and asks nothing twice", async () => {
    const data = file("killed-data");
    await cli([
      "ruler",
      "prepare",
      "--minimal",
      "--task",
      "niah",
      "--length",
      "40",
      "--samples",
      "8",
      "-o",
      data,
    ]);
    const asked: string[] = [];
    let slow = true;
    const server = createServer(async (request, response) => {
      let text = "";
      for await (const chunk of request) text += chunk;
      asked.push((JSON.parse(text) as { prompt: string }).prompt);
      // The fourth is never answered: the process dies waiting for it.
      if (slow && asked.length > 3) return;
      response.end(JSON.stringify({ choices: [{ text: "123456" }] }));
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const url = `http://127.0.0.1:${(server.address() as { port: number }).port}/v1`;
    const args = [
      "ruler",
      "run",
      "--data",
      data,
      "-o",
      file("killed"),
      "--endpoint",
      url,
      "--concurrency",
      "1",
      "--json",
    ];
    try {
      const child = spawn(process.execPath, [program, ...args], { stdio: "ignore" });
      const ended = new Promise((resolve) => child.on("exit", resolve));
      while (asked.length < 4) await new Promise((resolve) => setTimeout(resolve, 20));
      child.kill("SIGKILL");
      await ended;
      slow = false;
      const { code, stdout } = await cli([...args, "--resume"]);
      expect([code, JSON.parse(stdout)]).toMatchObject([0, [{ rows: 8, resumed: 3 }]]);
      // Eight prompts and the one that was under way.
      expect(asked).toHaveLength(9);
      expect(new Set(asked).size).toBe(8);
      const score = await cli(["ruler", "score", file("killed"), "--data", data, "--json"]);
      expect(score.code).toBe(0);
    } finally {
      server.closeAllConnections();
      server.close();
    }
  }, 60_000);
});
