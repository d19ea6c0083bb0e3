// SPDX-License-Identifier: Apache-2.0
// The data-set commands as a user meets them: flags of the original, data on stdout, exit codes.

import { execFileSync, spawn, spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { ensureBuilt, ROOT, scratch, TINY, textRows, writeJsonl } from "../embed/support.ts";

const work = scratch("cli-embed");
const data = writeJsonl(join(work, "data"), textRows(900));
const MAIN = join(ROOT, "dist/cli/main.js");

function cli(...argv: string[]): { code: number | null; stdout: string; stderr: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, [MAIN, ...argv], { encoding: "utf8" });
  return { code: status, stdout, stderr };
}

describe("the command line", () => {
  beforeAll(() => {
    ensureBuilt();
    if (!existsSync(MAIN)) execFileSync("npx", ["tsc", "-p", "."], { cwd: ROOT, stdio: "ignore" });
  });

  it("has the original's flags", () => {
    const { stdout } = cli("embed-hf", "--help");
    for (const flag of "dataset subset split text-field model batch-size rows-per-shard max-rows output-root dtype device attention prefetch-batches bucket-min-tokens bucket-max-tokens tokens-per-batch compile-model compile-mode no-progress run-id resume extract-first-assistant revision shuffle-seed columns pooling site steering output-dtype compression queue shard-range".split(
      " ",
    ))
      expect(stdout).toContain(`--${flag}`);
  });

  it("embeds, reduces and exports, one command after the other", { timeout: 180_000 }, () => {
    const root = join(work, "out");
    const first = cli(
      "embed-hf",
      "--dataset",
      data,
      "--model",
      TINY,
      "--output-root",
      root,
      "--rows-per-shard",
      "300",
      "--columns",
      "label",
      "--json",
      "--metrics-file",
      join(work, "metrics.prom"),
    );
    expect(first.code, first.stderr).toBe(0);
    const result = JSON.parse(first.stdout.slice(first.stdout.indexOf("{\n")));
    expect(result).toMatchObject({ type: "result", status: "complete", shards: 3 });
    expect(readFileSync(join(work, "metrics.prom"), "utf8")).toMatch(
      /chatspace_embed_rows_total\{dataset=".*",split="train"\} \d+/,
    );
    const again = cli(
      "embed-hf",
      "--dataset",
      data,
      "--model",
      TINY,
      "--output-root",
      root,
      "--rows-per-shard",
      "300",
      "--columns",
      "label",
    );
    expect(again.code).toBe(4);
    expect(again.stderr).toContain("ERR_RUN_EXISTS");
    const points = join(work, "points.parquet");
    const reduced = cli(
      "reduce-embeddings",
      "--embedding-dirs",
      join(root, "embeddings/tiny-encoder/data/train"),
      "--output",
      points,
      "--method",
      "pca",
      "--json",
    );
    expect(JSON.parse(reduced.stdout)).toMatchObject({ method: "pca", n_samples: 876 });
    const page = cli("visualize-embeddings", "--input", points, "--export", join(work, "page.html"));
    expect(page.stdout.trim()).toBe(join(work, "page.html"));
    expect(readFileSync(join(work, "page.html"), "utf8")).toContain("webgl2");
    const described = cli("download-dataset", "--name", data, "--output-root", root, "--json");
    expect(JSON.parse(described.stdout)).toMatchObject({ num_rows: 900, format: "jsonl" });
    const plan = cli("embed-dataset", "--dataset", data, "--p", "0.1", "--output-root", root, "--json");
    expect(JSON.parse(plan.stdout)).toMatchObject({ rows_total: 900, execute: false });
  });

  it("says what is wrong with the right exit code", () => {
    expect(cli("embed-hf").code).toBe(2);
    const base = ["embed-hf", "--model", TINY, "--output-root", join(work, "wrong")];
    expect(cli(...base, "--dataset", data, "--pooling", "median").code).toBe(2);
    expect(cli(...base, "--dataset", join(work, "nothing")).code).toBe(4);
    expect(cli(...base, "--dataset", data, "--shard-range", "7").code).toBe(2);
    expect(cli("worker", "--queue", "redis://127.0.0.1:9").code).toBe(1);
  });

  it("answers 130 to Ctrl-C and goes on with --resume", { timeout: 180_000 }, async () => {
    const many = writeJsonl(join(work, "many"), textRows(20_000));
    const argv = [
      "embed-hf",
      "--dataset",
      many,
      "--model",
      TINY,
      "--output-root",
      join(work, "stopped"),
      "--rows-per-shard",
      "200",
      "--window-rows",
      "50",
      "--threads",
      "1",
      "--resume",
      "--no-progress",
    ];
    const child = spawn(process.execPath, [MAIN, ...argv], { stdio: ["ignore", "ignore", "pipe"] });
    // Listened to from the start: a child that ends early must not be waited for in vain.
    const closed = new Promise((resolve) => child.on("close", resolve));
    const shards = join(work, "stopped/embeddings/tiny-encoder/many/train/shard-00000.parquet");
    const deadline = Date.now() + 30_000;
    while (!existsSync(shards) && Date.now() < deadline)
      await new Promise((resolve) => setTimeout(resolve, 10));
    child.kill("SIGINT");
    const code = await closed;
    // A fast machine may have been done.
    expect([0, 130]).toContain(code);
    const { code: second, stdout } = cli(...argv);
    expect(second).toBe(0);
    expect(stdout).toContain("19460 rows (540 skipped) in 100 shards");
  });
});
