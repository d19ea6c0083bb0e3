// SPDX-License-Identifier: Apache-2.0
// A run that is killed, starved or misled either ends like one that never was, or says what is wrong and
// keeps what it has. tests/slow/kill.test.ts does the same at a hundred random moments.

import {
  appendFileSync,
  cpSync,
  existsSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import type { EmbedConfig } from "../../src/embed/config.ts";
import {
  ensureBuilt,
  fingerprintOf,
  isAlive,
  runToEnd,
  scratch,
  startRun,
  TINY,
  textRows,
  writeJsonl,
} from "./support.ts";

const work = scratch("faults");
const data = writeJsonl(join(work, "data"), textRows(4000));
let folders = 0;

function config(more: Partial<EmbedConfig> = {}): EmbedConfig & { outputRoot: string } {
  return {
    dataset: data,
    model: TINY,
    columns: ["label", "tag"],
    rowsPerShard: 300,
    windowRows: 100,
    outputRoot: join(work, `out-${folders++}`),
    tokenizerThreads: 1,
    threads: 1,
    ...more,
  };
}

async function waitFor(condition: () => boolean, ms = 20_000): Promise<void> {
  const deadline = Date.now() + ms;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error("waited in vain");
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

const shardOf = (root: string, index: number): string =>
  join(root, "embeddings/tiny-encoder/data/train", `shard-${String(index).padStart(5, "0")}.parquet`);
const journalOf = (root: string): string => join(root, "indexes/tiny-encoder/data/journal-train.jsonl");

describe("a run that is disturbed", () => {
  const reference = config();
  beforeAll(async () => {
    ensureBuilt();
    await runToEnd(reference);
  });

  it.each(["loader", "encoder", "writer"])(
    "ends non-zero when its %s is killed, and resumes to the same bytes",
    async (stage) => {
      const settings = config();
      const run = startRun(settings);
      const pids = await run.stages;
      await waitFor(() => existsSync(shardOf(settings.outputRoot, stage === "loader" ? 0 : 1)));
      process.kill(pids[stage] as number, "SIGKILL");
      const { code, result } = await run.ended;
      if (code !== 0) {
        expect(result).toMatchObject({ error: "ERR_STAGE_DIED", details: { stage, signal: "SIGKILL" } });
        for (const pid of Object.values(pids)) expect(isAlive(pid)).toBe(false);
      }
      await runToEnd(settings);
      expect(fingerprintOf(settings.outputRoot)).toEqual(fingerprintOf(reference.outputRoot));
    },
  );

  it("leaves no stage behind when the parent is killed, and resumes to the same bytes", async () => {
    const settings = config();
    const run = startRun(settings);
    const pids = await run.stages;
    await waitFor(() => existsSync(shardOf(settings.outputRoot, 2)));
    run.child.kill("SIGKILL");
    await run.ended;
    await waitFor(() => Object.values(pids).every((pid) => !isAlive(pid)), 5_000);
    await runToEnd(settings);
    expect(fingerprintOf(settings.outputRoot)).toEqual(fingerprintOf(reference.outputRoot));
  });

  it("resumes from a journal whose last line was torn, and from a shard that the journal does not know", async () => {
    const settings = config();
    cpSync(reference.outputRoot, settings.outputRoot, { recursive: true });
    const journal = journalOf(settings.outputRoot);
    const lines = readFileSync(journal, "utf8").trimEnd().split("\n");
    // header, five shards, half of the sixth; the sixth file is on disk, later ones are gone.
    writeFileSync(journal, `${lines.slice(0, 6).join("\n")}\n`);
    appendFileSync(journal, (lines[6] as string).slice(0, 40));
    for (let index = 6; index < 14; index++) rmSync(shardOf(settings.outputRoot, index), { force: true });
    rmSync(join(settings.outputRoot, "indexes/tiny-encoder/data/manifest-train.json"));
    await runToEnd(settings, 1);
    expect(fingerprintOf(settings.outputRoot)).toEqual(fingerprintOf(reference.outputRoot));
  });

  it("finishes the begun shards on the first SIGINT and goes on later", async () => {
    const settings = config();
    const run = startRun(settings);
    await run.stages;
    await waitFor(() => existsSync(shardOf(settings.outputRoot, 0)));
    run.child.kill("SIGINT");
    const { code, result } = await run.ended;
    expect(code).toBe(0);
    // On a fast machine the loader may already have read it all.
    expect(["stopped", "complete"]).toContain(result?.status);
    await runToEnd(settings);
    expect(fingerprintOf(settings.outputRoot)).toEqual(fingerprintOf(reference.outputRoot));
  });

  it("stops at once on the second SIGINT and goes on later", async () => {
    const settings = config();
    const run = startRun(settings);
    const pids = await run.stages;
    run.child.kill("SIGINT");
    run.child.kill("SIGINT");
    await new Promise((resolve) => setTimeout(resolve, 50));
    run.child.kill("SIGINT");
    await run.ended;
    for (const pid of Object.values(pids)) expect(isAlive(pid)).toBe(false);
    await runToEnd(settings);
    expect(fingerprintOf(settings.outputRoot)).toEqual(fingerprintOf(reference.outputRoot));
  });

  it("says that the disk is full, keeps its shards, and resumes when there is room", async () => {
    const settings = config();
    // No file may grow past 24 KiB: shards do, the journal does not.
    const run = startRun(settings, {}, ["bash", "-c", 'ulimit -f 24; exec "$@"', "bash"]);
    const { code, result } = await run.ended;
    expect(code).toBe(1);
    expect(result).toMatchObject({ error: "ERR_DISK_FULL", name: "EnvironmentError" });
    await runToEnd(settings);
    expect(fingerprintOf(settings.outputRoot)).toEqual(fingerprintOf(reference.outputRoot));
  });

  it("gives the same bytes with one tokeniser thread or three, and with two encoder processes", async () => {
    const settings = config({ tokenizerThreads: 3, device: "cpu,cpu", threads: 1 });
    await runToEnd(settings);
    expect(fingerprintOf(settings.outputRoot).shards).toEqual(fingerprintOf(reference.outputRoot).shards);
  });

  it("gives the same bytes when three tasks make a range each", async () => {
    const settings = config();
    for (const shardRange of [
      { start: 5, end: 9 },
      { start: 0, end: 5 },
      { start: 9, end: 14 },
    ]) {
      const { code, result } = await startRun({ ...settings, shardRange }).ended;
      expect(code, JSON.stringify(result)).toBe(0);
    }
    await runToEnd(settings);
    expect(fingerprintOf(settings.outputRoot)).toEqual(fingerprintOf(reference.outputRoot));
  });

  it("refuses to resume with other settings, or over changed or vanished sources", async () => {
    const settings = config({ dataset: join(work, "moving") });
    writeJsonl(join(work, "moving"), textRows(500));
    await runToEnd(settings);
    const resumed = { ...settings, resume: true };
    const other = await startRun({ ...resumed, rowsPerShard: 200 }).ended;
    expect(other.result).toMatchObject({
      error: "ERR_RESUME_SETTINGS",
      details: { differences: ["rows_per_shard: was 300, now 200"] },
    });
    appendFileSync(join(work, "moving/part-1.jsonl"), '{"text":"one more"}\n');
    expect((await startRun(resumed).ended).result).toMatchObject({ error: "ERR_RESUME_SETTINGS" });
    renameSync(join(work, "moving"), join(work, "gone"));
    expect((await startRun(resumed).ended).result).toMatchObject({ error: "ERR_SOURCE_MISSING" });
    expect((await startRun(settings).ended).code).toBe(1);
  });

  it("defect 1: stops at a corrupt row with its place, or counts and skips it when asked", async () => {
    const folder = writeJsonl(join(work, "corrupt"), textRows(700));
    appendFileSync(join(folder, "part-0.jsonl"), '{"text": "cut off\n');
    const settings = config({ dataset: folder });
    const failed = await startRun(settings).ended;
    expect(failed.code).toBe(1);
    expect(failed.result).toMatchObject({
      error: "ERR_ROW_CORRUPT",
      details: { file: "part-0.jsonl", row: 420 },
    });
    const skipping = config({ dataset: folder, onError: "skip" });
    await runToEnd(skipping);
    const { manifest } = fingerprintOf(skipping.outputRoot) as { manifest: Record<string, unknown> };
    expect(manifest).toMatchObject({
      rows_total: 682,
      rows_skipped: 19,
      skip_reasons: { corrupt: 1, empty: 18 },
    });
  });

  it("says that a model is unreadable before it writes anything", async () => {
    const model = join(work, "broken-model");
    cpSync(TINY, model, { recursive: true });
    truncateSync(join(model, "model.onnx"), 2000);
    const { code, result } = await startRun(config({ model })).ended;
    expect(code).toBe(1);
    expect(result).toMatchObject({ error: "ERR_MODEL_UNREADABLE", name: "ModelError" });
  });

  it("lets only one process work on a run", async () => {
    const settings = config();
    const first = startRun(settings);
    await first.stages;
    const second = await startRun({ ...settings, resume: true }).ended;
    expect(second.result).toMatchObject({ error: "ERR_RUN_LOCKED" });
    expect((await first.ended).code).toBe(0);
  });

  it("refuses to run over a finished run unless told to", async () => {
    const { result } = await startRun({ ...reference }).ended;
    expect(result).toMatchObject({ error: "ERR_RUN_EXISTS" });
  });
});
