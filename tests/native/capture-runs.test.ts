// SPDX-License-Identifier: Apache-2.0
// Captures of many prompts in one run, streamed or to a file: in order, in a worker, from the command line, and
// whole or absent when the run cannot end well.
import { spawn, spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { Worker } from "node:worker_threads";
import { tableFromIPC } from "apache-arrow";
import { describe, expect, test } from "vitest";
import { cli } from "../cli/run-cli.ts";
import { file, folder, model, PROMPTS, SITES } from "./capture-world.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));

describe("a stream of prompts", () => {
  test("gives all rows of one prompt before the next, its answer last, and ends when it is left", async () => {
    let [at, rows] = [0, 0];
    const seen: number[] = [];
    const options = { sites: [1], maxTokens: 5, temperature: 0, together: 4, chunkBytes: 0 };
    for await (const { prompt, captures, result } of model.captureStream(PROMPTS, options)) {
      expect(prompt).toBe(at);
      if (result === undefined) {
        rows += captures["layers.1"]!.positions.length;
        continue;
      }
      expect(captures).toEqual({});
      seen.push(rows);
      [at, rows] = [at + 1, 0];
    }
    expect(seen).toEqual(PROMPTS.map((prompt) => prompt.length + 4));
    for await (const { prompt } of model.captureStream(PROMPTS, { ...options, maxTokens: 400 }))
      if (prompt === 1) break;
    expect((await model.generate(PROMPTS[0]!, { maxTokens: 2 })).tokens.length).toBe(2);
    await expect.poll(() => model.stats().running + model.stats().waiting).toBe(0);
  });

  test("checks every prompt at the call, and ends with the reason of its signal", async () => {
    expect(() => model.captureStream([PROMPTS[0]!, [99_999]], { sites: [1] })).toThrow(
      expect.objectContaining({ code: "ERR_TOKEN_RANGE" }),
    );
    expect(() => model.captureStream(PROMPTS, { sites: [1], order: "none" as never })).toThrow(TypeError);
    const controller = new AbortController();
    const reason = new Error("enough");
    const read = async () => {
      const options = {
        sites: [1],
        maxTokens: 300,
        ignoreEos: true,
        chunkBytes: 0,
        signal: controller.signal,
      };
      for await (const chunk of model.captureStream(PROMPTS, options))
        if (chunk.prompt === 2) controller.abort(reason);
    };
    await expect(read()).rejects.toBe(reason);
    await model.generate(PROMPTS[0]!, { maxTokens: 1 });
    await expect.poll(() => model.stats().running + model.stats().waiting).toBe(0);
  });

  test("works in a worker thread, beside one on the main thread", async () => {
    const code = `
      import { parentPort } from "node:worker_threads";
      import { SteerModel } from ${JSON.stringify(pathToFileURL(join(root, "dist/index.js")).href)};
      const model = await SteerModel.load("stories260k", { device: "cpu" });
      let sum = 0;
      const options = { sites: [1], maxTokens: 8, temperature: 0, chunkBytes: 0 };
      for await (const { captures } of model.captureStream(${JSON.stringify(PROMPTS.map((p) => [...p]))}, options))
        for (const x of captures["layers.1"]?.data ?? []) sum += Math.abs(x);
      await model.dispose();
      parentPort.postMessage(sum);`;
    writeFileSync(file("worker.mjs"), code);
    const worker = new Worker(file("worker.mjs"));
    const theirs = new Promise<number>((resolve, reject) => {
      worker.on("message", resolve).on("error", reject);
    });
    let ours = 0;
    const options = { sites: [1], maxTokens: 8, temperature: 0, chunkBytes: 0 };
    for await (const { captures } of model.captureStream(PROMPTS, options))
      for (const x of captures["layers.1"]?.data ?? []) ours += Math.abs(x);
    expect(await theirs).toBe(ours);
    await worker.terminate();
  });
});

describe("a run that cannot end well", () => {
  const input = () => {
    const path = file("many.txt");
    writeFileSync(
      path,
      Array.from({ length: 400 }, (_, i) => `Once upon a time there was number ${i}`).join("\n"),
    );
    return path;
  };
  const args = (output: string) => [
    ...["capture", input(), "-m", "stories260k", "--device", "cpu", "-o", output, "-a", "layers", "-n", "40"],
  ];
  const leftovers = (name: string) => readdirSync(folder).filter((each) => each.startsWith(name));

  test.each(["full.safetensors", "full.arrow"])(
    "of a full disk is a typed error and leaves nothing: %s",
    async (name) => {
      const command = [process.execPath, join(root, "dist/cli/main.js"), ...args(file(name))];
      const run = spawnSync("bash", ["-c", 'ulimit -f 96; exec "$@"', "bash", ...command], {
        encoding: "utf8",
      });
      expect(run.stderr).toContain("ERR_DISK_FULL");
      expect(run.status).toBe(3);
      expect(leftovers(name)).toEqual([]);
    },
  );

  test("of a folder that is not there says so", async () => {
    await expect(
      model.captureToFile(file("nowhere/x.safetensors"), PROMPTS, { sites: [0] }),
    ).rejects.toMatchObject({ code: "ERR_FILE_WRITE" });
  });

  test.each(["killed.safetensors", "killed.arrow"])(
    "of a killed process leaves no file of that name: %s",
    async (name) => {
      const child = spawn(process.execPath, [join(root, "dist/cli/main.js"), ...args(file(name))], {
        stdio: "ignore",
      });
      const ended = new Promise((resolve) => child.on("close", resolve));
      while (leftovers(name).length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
      child.kill("SIGKILL");
      await ended;
      expect(existsSync(file(name))).toBe(false);
      expect(leftovers(name).length).toBe(1);
    },
  );

  test("a mistake in the model's answer leaves the file that was there before", async () => {
    writeFileSync(file("old.safetensors"), "old");
    const controller = new AbortController();
    const running = model.captureToFile(file("old.safetensors"), PROMPTS, {
      ...{ sites: SITES, maxTokens: 300, ignoreEos: true, signal: controller.signal, chunkBytes: 0 },
      onResult: () => controller.abort(new Error("enough")),
    });
    await expect(running).rejects.toThrow("enough");
    expect(readFileSync(file("old.safetensors"), "utf8")).toBe("old");
    expect(leftovers("old.safetensors")).toEqual(["old.safetensors"]);
  });
});

test("the command line writes conversations with the message of each row", async () => {
  writeFileSync(file("texts.jsonl"), '{"q":"Once upon a time"}\n{"q":"The"}\n');
  const { code, stdout } = await cli([
    ...[
      "capture",
      file("texts.jsonl"),
      "-m",
      "stories260k",
      "--device",
      "cpu",
      "--field",
      "q",
      "-a",
      "layers",
    ],
    ...["-o", file("cli.arrow"), "-n", "4", "--rows", "generation", "--store", "float16", "--json"],
  ]);
  expect(code).toBe(0);
  const { shapes } = JSON.parse(stdout) as { shapes: Record<string, [number, number]> };
  expect(Object.keys(shapes)).toHaveLength(5);
  expect(shapes["layers.4"]).toEqual([6, 64]);
  const table = tableFromIPC(readFileSync(file("cli.arrow")));
  expect([...(table.getChild("text")!.toArray() as Int32Array)]).toEqual([0, 0, 0, 1, 1, 1]);
});
