// SPDX-License-Identifier: Apache-2.0
// The process ends while engines load and generate: with its own exit code or signal, and quietly.

import { expect, it } from "vitest";
import { child } from "./children.ts";

it.each([
  ["exit-generating", 7],
  ["exit-loading", 5],
  ["exit-with-workers", 6],
  ["end-idle", 0],
])(
  "%s ends with code %i and no noise, ten times over",
  async (scenario, code) => {
    for (let i = 0; i < 10; i++) {
      const ended = await child(scenario);
      expect(ended, ended.stderr).toMatchObject({ code, signal: null, stderr: "" });
    }
  },
  240_000,
);

it("a running request holds the event loop until it is done", async () => {
  const ended = await child("exit-code-only");
  expect(ended, ended.stderr).toMatchObject({ code: 9, signal: null, stderr: "" });
  expect(ended.told).toEqual([{ finish: "length", tokens: 200 }]);
}, 120_000);

it("an exception that nobody catches ends it as in any Node process", async () => {
  const ended = await child("throw-generating");
  expect(ended).toMatchObject({ code: 1, signal: null });
  expect(ended.stderr).toContain("thrown by the test");
  expect(ended.stderr).not.toMatch(/DEP0168|terminate called|Segmentation|core dumped/);
}, 120_000);

it("SIGINT kills a process that generates", async () => {
  const ended = await child("sigint", { signal: "SIGINT" });
  expect(ended, ended.stderr).toMatchObject({ code: null, signal: "SIGINT", stderr: "" });
}, 120_000);

it("SIGINT with a handler that exits gives the handler's code", async () => {
  const ended = await child("sigint-handled", { signal: "SIGINT" });
  expect(ended, ended.stderr).toMatchObject({ code: 130, signal: null, stderr: "" });
}, 120_000);
