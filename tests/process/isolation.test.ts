// SPDX-License-Identifier: Apache-2.0
// Models and threads do not see each other: two models at once, workers, their terminate(), callbacks
// that throw.

import { expect, it } from "vitest";
import { child } from "./children.ts";

it("two models at once answer as each does alone", async () => {
  const ended = await child("two-models");
  expect(ended, ended.stderr).toMatchObject({ code: 0, stderr: "" });
  expect(ended.told.at(-1)).toEqual({ equal: true, after: true, requests: 24 });
}, 120_000);

it("workers load and generate; terminated while they load or generate, the main thread goes on", async () => {
  const ended = await child("workers", { timeoutMs: 150_000 });
  expect(ended, ended.stderr).toMatchObject({ code: 0, signal: null, stderr: "" });
  expect(ended.told.at(-1)).toEqual({ workers: [true, true, true], exits: 5, main: true, fresh: true });
}, 180_000);

it("an onEvent that throws is an uncaught exception each time, and no other request's business", async () => {
  const ended = await child("throws");
  expect(ended, ended.stderr).toMatchObject({ code: 0, signal: null, stderr: "" });
  const told = ended.told.at(-1) as { caught: number; message: string; equal: boolean };
  expect(told).toMatchObject({ message: "from onEvent", equal: true });
  // Once for each event: tokens may be joined, "done" comes in any case.
  expect(told.caught).toBeGreaterThanOrEqual(2);
}, 120_000);
