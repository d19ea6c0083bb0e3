// SPDX-License-Identifier: Apache-2.0
// Many machines over a real Redis: workers as processes with folders of their own, one killed in the
// middle of a range, one joining late; together they make the bytes of a run on one machine.
// Skipped with a reason where redis-server is not installed.

import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { EmbedConfig } from "../../src/embed/config.ts";
import { coordinate } from "../../src/embed/queue/coordinator.ts";
import { parseShardRange } from "../../src/embed/shard-range.ts";
import {
  ensureBuilt,
  fingerprintOf,
  ROOT,
  runToEnd,
  scratch,
  TINY,
  textRows,
  writeJsonl,
} from "./support.ts";

const work = scratch("queue");
const data = writeJsonl(join(work, "data"), textRows(6000));
const base: EmbedConfig = {
  dataset: data,
  model: TINY,
  columns: ["label"],
  rowsPerShard: 250,
  windowRows: 125,
  threads: 1,
  tokenizerThreads: 1,
};

function hasRedis(): boolean {
  try {
    execFileSync("redis-server", ["--version"], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
}
const redisHere = hasRedis();
if (!redisHere) console.warn("skipped: no redis-server on this machine (apt-get install redis-server)");

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}

async function waitFor(condition: () => boolean, ms = 30_000): Promise<void> {
  const deadline = Date.now() + ms;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error("waited in vain");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

describe.skipIf(!redisHere)("a run over Redis", () => {
  let redis: ChildProcess;
  let url = "";
  const workers: ChildProcess[] = [];

  beforeAll(async () => {
    ensureBuilt();
    process.env.SOURCE_DATE_EPOCH = "1700000000";
    const port = await freePort();
    redis = spawn(
      "redis-server",
      ["--port", String(port), "--save", "", "--appendonly", "no", "--bind", "127.0.0.1"],
      { stdio: "ignore", cwd: work },
    );
    url = `redis://127.0.0.1:${port}`;
    await waitFor(() => {
      try {
        return execFileSync("redis-cli", ["-p", String(port), "ping"], {
          encoding: "utf8",
          stdio: ["ignore", "pipe", "ignore"],
        }).includes("PONG");
      } catch {
        return false;
      }
    });
  });
  afterAll(async () => {
    delete process.env.SOURCE_DATE_EPOCH;
    for (const worker of workers) worker.kill("SIGKILL");
    redis?.kill("SIGKILL");
  });

  const startWorker = (name: string): { child: ChildProcess; root: string; events: () => string } => {
    const root = join(work, name);
    let out = "";
    const child = spawn(process.execPath, [join(ROOT, "tests/embed/fixtures/run-worker.mjs"), url, root], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    child.stdout?.on("data", (chunk: Buffer) => {
      out += chunk.toString();
    });
    workers.push(child);
    return { child, root, events: () => out };
  };

  it("with one worker killed and one late ends as on one machine", { timeout: 120_000 }, async () => {
    const single = join(work, "single");
    await runToEnd({ ...base, outputRoot: single });
    const reference = fingerprintOf(single) as {
      shards: Record<string, string>;
      manifest: { rows_total: number };
    };

    const [one, two] = [startWorker("w1"), startWorker("w2")];
    const root = join(work, "coordinator");
    const running = coordinate({ ...base, outputRoot: root }, { queue: url, rangeShards: 3 });
    running.catch(() => undefined);
    // Killed with a range begun and not done.
    const shards = join(one.root, "embeddings/tiny-encoder/data/train");
    await waitFor(() => existsSync(shards) && readdirSync(shards).some((name) => name.startsWith("shard-")));
    one.child.kill("SIGKILL");
    const three = startWorker("w3");
    const result = await running;
    expect(result.status).toBe("complete");
    expect(result.shards.length).toBe(24);
    expect(two.events()).toContain("done");
    expect(three.events()).toContain("ready");
    // Each shard lies where the manifest says, and is the single machine's to the byte.
    for (const shard of result.shards) {
      const folder = (shard.location as string).slice((shard.location as string).indexOf(":") + 1);
      const bytes = readFileSync(join(folder, shard.path as string));
      const hash = createHash("sha256").update(bytes).digest("hex");
      expect(hash).toBe(shard.sha256);
      expect(hash).toBe(reference.shards[`/${shard.path}`]);
    }
    expect(result.manifest?.rows_total).toBe(reference.manifest.rows_total);
  });

  it("is refused by a worker whose copy of the data differs", { timeout: 90_000 }, async () => {
    for (const worker of workers.splice(0)) worker.kill("SIGKILL");
    const moving = writeJsonl(join(work, "moving"), textRows(400));
    const root = join(work, "differs");
    const running = coordinate(
      { ...base, dataset: moving, outputRoot: root },
      { queue: url, rangeShards: 2 },
    );
    running.catch(() => undefined);
    await waitFor(() => existsSync(join(root, "indexes/tiny-encoder/moving/journal-train.jsonl")));
    writeJsonl(join(work, "moving"), textRows(401));
    startWorker("w4");
    await expect(running).rejects.toMatchObject({ code: "ERR_RESUME_SETTINGS" });
  });

  it("says within seconds that no Redis answers", async () => {
    await expect(
      coordinate(
        { ...base, outputRoot: join(work, "none") },
        { queue: "redis://127.0.0.1:9", rangeShards: 2 },
      ),
    ).rejects.toMatchObject({
      code: "ERR_QUEUE_UNREACHABLE",
      name: "ServiceError",
    });
    await expect(
      coordinate({ ...base, outputRoot: join(work, "none") }, { queue: "localhost:1", rangeShards: 2 }),
    ).rejects.toMatchObject({ code: "ERR_QUEUE_ADDRESS" });
  });
});

describe("--shard-range", () => {
  it("reads ranges, parts, Slurm and Kubernetes", () => {
    expect(parseShardRange("3..7", {}).shardRange).toEqual({ start: 3, end: 7 });
    expect(parseShardRange("3..", {}).shardRange).toEqual({ start: 3, end: null });
    const slurm = { SLURM_ARRAY_TASK_ID: "12", SLURM_ARRAY_TASK_MIN: "10", SLURM_ARRAY_TASK_COUNT: "4" };
    expect(parseShardRange("auto", slurm).split(10)).toEqual({ start: 5, end: 7 });
    const kubernetes = { JOB_COMPLETION_INDEX: "0", JOB_COMPLETIONS: "3" };
    expect(parseShardRange("auto", kubernetes).split(10)).toEqual({ start: 0, end: 3 });
    expect(() => parseShardRange("auto", {})).toThrowError(
      expect.objectContaining({ code: "ERR_SHARD_RANGE_ENV" }),
    );
    expect(() => parseShardRange("9/8", {})).toThrowError(
      expect.objectContaining({ code: "ERR_OPTION_RANGE" }),
    );
  });

  it("gives every shard to exactly one of the tasks", () => {
    for (const [tasks, shards] of [
      [3, 10],
      [7, 5],
      [1, 4],
      [16, 1000],
    ] as const) {
      const taken = Array.from({ length: tasks }, (_, task) =>
        parseShardRange(`${task}/${tasks}`, {}).split(shards),
      ).filter((range) => range !== null);
      const all = taken.flatMap(({ start, end }) =>
        Array.from({ length: (end as number) - start }, (_, i) => start + i),
      );
      expect(all).toEqual(Array.from({ length: shards }, (_, i) => i));
    }
  });
});
