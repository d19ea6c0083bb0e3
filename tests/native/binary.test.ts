// SPDX-License-Identifier: Apache-2.0
// Dangers that only the built files show: a path of the building machine, a CUDA dependency, an
// instruction of a newer processor in code that every processor runs.

import { execFileSync, spawnSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { describe, expect, it } from "vitest";

const root = path.resolve(import.meta.dirname, "../..");
const addon = path.join(root, "build/Release/chatspace_steer.node");
const { readElf } = (await import(path.join(root, "scripts/lib/elf.mjs"))) as {
  readElf(file: string): { needed: string[]; searchPath: string[] } | null;
};

describe.skipIf(!fs.existsSync(addon))("the built addon", () => {
  it("searches libtorch by a relative path only", () => {
    expect(readElf(addon)?.searchPath).toEqual(["$ORIGIN/../../vendor/libtorch/lib"]);
  });

  it("needs the CPU half of libtorch and nothing of CUDA or Python", () => {
    const needed = readElf(addon)?.needed ?? [];
    expect(needed).toContain("libtorch_cpu.so");
    expect(needed.filter((name) => /cuda|python|libtorch\.so/.test(name))).toEqual([]);
  });

  it("is the only file in build/Release, where prebuildify takes the first", () => {
    expect(fs.readdirSync(path.dirname(addon))).toEqual(["chatspace_steer.node"]);
  });

  it("exports nothing but Node-API's entry points", () => {
    const symbols = execFileSync("nm", ["-D", "--defined-only", addon], { encoding: "utf8" });
    const ours = symbols
      .split("\n")
      .filter((line) => / [TDB] /.test(line) && !/napi_register|node_api_module/.test(line));
    expect(ours).toEqual([]);
  });
});

// Inline functions that several files instantiate are merged by the linker into one copy. If that copy
// comes from a file compiled for AVX-512, a processor without it dies in std::vector.
const objects = path.join(root, "build/cmake/CMakeFiles/chatspace_kernels.dir/native/kernels");
const special = fs.existsSync(objects)
  ? fs.readdirSync(objects).filter((name) => /_(avx2|avx512\w*|amx)\.cc\.o$/.test(name))
  : [];
const hasNm = spawnSync("nm", ["--version"]).status === 0;

describe.skipIf(special.length === 0 || !hasNm)("files compiled for a newer processor", () => {
  it.each(special)("%s shares no inline function with the rest", (name) => {
    const symbols = execFileSync("nm", ["-C", "--defined-only", path.join(objects, name)], {
      encoding: "utf8",
    });
    expect(symbols.split("\n").filter((line) => / [WVu] /.test(line))).toEqual([]);
  });
});
