// SPDX-License-Identifier: Apache-2.0
// What is taken comes back: memory and threads after dispose and after garbage collection, requests of a
// disposed model, requests that are aborted at once.

import { expect, it } from "vitest";
import { child } from "./children.ts";

/** MiB a process may have gained after its cycles: one model holds about 20. */
const TOLERANCE = 24;

it("200 load, generate, dispose cycles leave memory and threads where they were", async () => {
  const ended = await child("cycles", { flags: ["--expose-gc"], timeoutMs: 200_000 });
  expect(ended, ended.stderr).toMatchObject({ code: 0, stderr: "" });
  const told = ended.told.at(-1) as Record<string, number>;
  console.log(`resident before ${told.before} MiB, after 200 cycles ${told.after} MiB`);
  expect((told.after as number) - (told.before as number)).toBeLessThan(TOLERANCE);
  expect(told.threadsAfter).toBe(told.threadsBefore);
}, 240_000);

it("models that are collected without dispose give back memory and threads", async () => {
  const ended = await child("collected", { flags: ["--expose-gc"], timeoutMs: 200_000 });
  expect(ended, ended.stderr).toMatchObject({ code: 0, stderr: "" });
  const told = ended.told.at(-1) as Record<string, number>;
  console.log(`resident before ${told.before} MiB, after 60 forgotten models ${told.after} MiB`);
  expect((told.after as number) - (told.before as number)).toBeLessThan(TOLERANCE);
  expect(told.threadsAfter).toBeLessThanOrEqual((told.threadsBefore as number) + 1);
}, 240_000);

it("dispose ends what runs as aborted, works twice, and refuses later requests", async () => {
  const ended = await child("dispose");
  expect(ended, ended.stderr).toMatchObject({ code: 0, stderr: "" });
  expect(ended.told.at(-1)).toMatchObject({ all: 30, code: "ERR_DISPOSED", layers: 5 });
  expect(ended.told.at(-1)?.aborted).toBeGreaterThan(0);
}, 120_000);

it("a thousand quick aborts leave nothing behind", async () => {
  const ended = await child("aborts");
  expect(ended, ended.stderr).toMatchObject({ code: 0, stderr: "" });
  const told = ended.told.at(-1) as { finishes: Record<string, number> };
  expect(told).toMatchObject({ after: true, running: 0, waiting: 0 });
  expect(Object.values(told.finishes).reduce((a, b) => a + b)).toBe(1000);
  expect(told.finishes.aborted).toBeGreaterThan(300);
  console.log("finishes", told.finishes);
}, 120_000);
