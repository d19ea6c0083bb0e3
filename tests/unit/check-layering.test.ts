// SPDX-License-Identifier: Apache-2.0
// The layering check must find what it is there for; a check that never fails checks nothing.

import { spawnSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterEach, beforeEach, expect, it } from "vitest";

const script = path.resolve(import.meta.dirname, "../../scripts/check-layering.mjs");
let root: string;

beforeEach(() => {
  root = fs.mkdtempSync(path.join(os.tmpdir(), "layering-"));
});
afterEach(() => fs.rmSync(root, { recursive: true, force: true }));

function check(files: Record<string, string>): { status: number | null; problems: string[] } {
  for (const [name, text] of Object.entries(files)) {
    fs.mkdirSync(path.dirname(path.join(root, name)), { recursive: true });
    fs.writeFileSync(path.join(root, name), text);
  }
  const { status, stderr } = spawnSync(process.execPath, [script, root], { encoding: "utf8" });
  return { status, problems: stderr.trim().split("\n").slice(0, -1) };
}

it("passes what keeps to the strata", () => {
  const got = check({
    "src/errors.ts": "",
    "src/formats/gguf.ts": 'import { a } from "../errors.ts";\n/** import x from "../cli/main.ts" */',
    "src/cli/main.ts": 'import "../formats/gguf.ts";\nconsole.log(1);',
    "native/kernels/sum.cc": '#include "kernels/sum.h"\n#include <cstdint>\n',
    "native/kernels/sum.h": "",
    "native/ops/ops.cc": '#include <ATen/ATen.h>\n#include "kernels/sum.h"\n',
    "native/bindings/model.cc": "#include <napi.h>\n",
  });
  expect(got).toEqual({ status: 0, problems: [] });
});

it.each([
  [
    "an upward import",
    { "src/formats/a.ts": 'import { b } from "../model/b.ts";' },
    "src/formats/a.ts:1: formats may not know model",
  ],
  [
    "an upward dynamic import",
    { "src/steering/a.ts": '\nawait import("../server/b.ts")' },
    "src/steering/a.ts:2: steering may not know server",
  ],
  ["a folder nobody placed", { "src/utils/a.ts": 'import "../errors.ts";' }, "src/utils has no stratum"],
  [
    "stdout outside the command line",
    { "src/model/a.ts": "console.log(1);" },
    "src/model/a.ts:1: only cli/ writes to stdout",
  ],
  [
    "torch in a kernel",
    { "native/kernels/a.cc": "#include <torch/script.h>" },
    "native/kernels/a.cc:1: includes <torch/script.h>",
  ],
  [
    "Node-API outside the bindings",
    { "native/engine/a.cc": "#include <napi.h>" },
    "native/engine/a.cc:1: includes <napi.h>",
  ],
  [
    "CUDA in the engine",
    { "native/engine/a.cc": "#include <cuda_runtime.h>" },
    "the CUDA runtime belongs to",
  ],
  [
    "an upward include",
    { "native/kernels/a.cc": '#include "ops/b.h"', "native/ops/b.h": "" },
    "native/kernels/a.cc:1: kernels may not know ops",
  ],
])("finds %s", (_name, files, problem) => {
  const got = check(files as unknown as Record<string, string>);
  expect(got.status).toBe(1);
  expect(got.problems.join("\n")).toContain(problem);
});

it("finds folders of one stratum that know each other in a circle", () => {
  const got = check({
    "src/embed/a.ts": 'import "../vectors/b.ts";',
    "src/vectors/b.ts": 'import "../ruler/c.ts";',
    "src/ruler/c.ts": 'import "../embed/a.ts";',
  });
  expect(got.status).toBe(1);
  expect(got.problems.join("\n")).toContain("circle");
});
