// SPDX-License-Identifier: Apache-2.0
// SIGKILL of loader, encoder, writer or parent at a hundred random moments, several times a run: what is
// there in the end is what an undisturbed run makes, to the byte. CHATSPACE_KILLS sets the number.

import { readdirSync } from "node:fs";
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
} from "../embed/support.ts";

const KILLS = Number(process.env.CHATSPACE_KILLS ?? 100);
const SEED = Number(process.env.CHATSPACE_SEED ?? Date.now() % 1_000_000);
const work = scratch("kill");
const data = writeJsonl(join(work, "data"), textRows(8000));

function config(name: string): EmbedConfig & { outputRoot: string } {
  return {
    dataset: data,
    model: TINY,
    columns: ["label", "tag"],
    rowsPerShard: 200,
    windowRows: 64,
    outputRoot: join(work, name),
    tokenizerThreads: 1,
    threads: 1,
    resume: true,
  };
}

let state = SEED;
const random = (): number => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return state / 2 ** 32;
};

describe("a run killed at random moments", () => {
  let undisturbedMs = 0;
  beforeAll(async () => {
    ensureBuilt();
    const started = performance.now();
    await runToEnd(config("reference"));
    undisturbedMs = performance.now() - started;
  }, 120_000);

  it(`ends like one that never was (${KILLS} kills, seed ${SEED})`, { timeout: 3_600_000 }, async () => {
    const reference = fingerprintOf(join(work, "reference"));
    const victims: Record<string, number> = { loader: 0, encoder: 0, writer: 0, parent: 0 };
    let kills = 0;
    let runs = 0;
    let resumeMs = 0;
    while (kills < KILLS) {
      const settings = config(`run-${runs++}`);
      // Killed up to four times on its way, then left alone.
      for (let attempt = 0; attempt < 4 && kills < KILLS; attempt++) {
        const run = startRun(settings);
        const stages = await run.stages;
        await new Promise((resolve) => setTimeout(resolve, random() * undisturbedMs * 0.7));
        const victim = Object.keys(victims)[Math.floor(random() * 4)] as string;
        const pid = victim === "parent" ? run.child.pid : stages[victim];
        if (pid !== undefined && isAlive(pid)) {
          process.kill(pid, "SIGKILL");
          victims[victim] = (victims[victim] ?? 0) + 1;
          kills++;
        }
        const { code, signal, result } = await run.ended;
        if (code === 0) break;
        if (victim !== "parent")
          expect(result, JSON.stringify(result)).toMatchObject({ error: "ERR_STAGE_DIED" });
        else expect(signal).toBe("SIGKILL");
        const deadline = Date.now() + 20_000;
        while (Object.values(stages).some(isAlive) && Date.now() < deadline)
          await new Promise((resolve) => setTimeout(resolve, 10));
        expect(Object.values(stages).filter(isAlive)).toEqual([]);
      }
      const started = performance.now();
      await runToEnd(settings, 1);
      resumeMs += performance.now() - started;
      expect(fingerprintOf(settings.outputRoot)).toEqual(reference);
      const names = readdirSync(join(settings.outputRoot, "embeddings/tiny-encoder/data/train"));
      // Temporary files of killed writers are swept by the next run.
      expect(names.filter((name) => !name.startsWith("shard-"))).toEqual([]);
    }
    console.log(
      `${kills} kills in ${runs} runs (${JSON.stringify(victims)}), seed ${SEED}; undisturbed ${undisturbedMs.toFixed(0)} ms, last leg on average ${(resumeMs / runs).toFixed(0)} ms`,
    );
  });
});
