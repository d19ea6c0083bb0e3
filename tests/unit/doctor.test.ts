// SPDX-License-Identifier: Apache-2.0
// The doctor on a machine that lacks everything: it names each thing with a remedy and does not throw.

import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterEach, beforeEach, expect, it } from "vitest";
import { checkDefaultModel } from "../../src/cli/model-check.ts";
import { MODEL_CATALOG } from "../../src/model/model-catalog.ts";
import { runDoctor } from "../../src/native/doctor.ts";

const kept = { ...process.env };
let empty: string;

beforeEach(() => {
  empty = fs.mkdtempSync(path.join(os.tmpdir(), "doctor-"));
  Object.assign(process.env, {
    PATH: empty,
    CXX: "",
    CHATSPACE_PYTHON: "",
    CHATSPACE_CACHE: path.join(empty, "cache"),
    CHATSPACE_ADDON: path.join(empty, "none.node"),
    CHATSPACE_LIBTORCH: path.join(empty, "none"),
  });
});
afterEach(() => {
  for (const name of Object.keys(process.env)) if (!(name in kept)) delete process.env[name];
  Object.assign(process.env, kept);
  fs.rmSync(empty, { recursive: true, force: true });
});

it("names every missing thing and what to do about it", async () => {
  const checks = new Map((await runDoctor()).map((check) => [check.name, check]));
  for (const name of ["cmake", "compiler", "pip", "libtorch", "addon"]) {
    expect(checks.get(name), name).toMatchObject({ ok: false, required: true });
    expect(checks.get(name)?.remedy, name).toMatch(/^(Install|Run) .+\.$/);
  }
  expect(checks.get("cmake")?.found).toBe("cmake is not installed");
  expect(checks.get("addon")?.found).toContain(path.join(empty, "none.node"));
  expect(checks.get("libtorch")?.found).toContain(path.join(empty, "none"));
  // A GPU is never demanded.
  expect(checks.get("cuda")).toMatchObject({ ok: true, required: false, remedy: null });
  expect(checks.get("node")).toMatchObject({ ok: true, remedy: null });
});

it("tells a default model that is absent from one that is fetched, by the folders the store uses", () => {
  const cache = path.join(empty, "cache");
  expect(checkDefaultModel(cache)).toMatchObject({ name: "default model", ok: false, required: false });
  expect(checkDefaultModel(cache).remedy).toMatch(/^Run .+ pull smollm2-135m-instruct/);
  const origin = MODEL_CATALOG[0]?.origin;
  fs.mkdirSync(path.join(cache, "sources"), { recursive: true });
  fs.writeFileSync(path.join(cache, "sources", origin?.file ?? ""), "");
  expect(checkDefaultModel(cache)).toMatchObject({ ok: true, remedy: null });
});
