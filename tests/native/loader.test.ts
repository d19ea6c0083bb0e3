// SPDX-License-Identifier: Apache-2.0
// How the addon is found and what is said when it is not. Each case is a process of its own, because an
// addon and a libtorch stay in a process for good.

import { execFileSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

const root = path.resolve(import.meta.dirname, "../..");
const addon = path.join(root, "build/Release/chatspace_steer.node");
const preload = path.join(root, "build/preload/chatspace_preload.node");
const loader = path.join(root, "dist/native");
const libtorch = path.join(root, "vendor/libtorch");
const ready = [addon, preload, path.join(loader, "loader.js"), libtorch].every((file) => fs.existsSync(file));

/** A package folder that holds the loader and the addon, and libtorch only where a case puts it. */
let folder: string;

beforeAll(() => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), "loader-"));
  if (!ready) return;
  fs.writeFileSync(path.join(folder, "package.json"), '{ "type": "module" }');
  fs.cpSync(loader, path.join(folder, "dist/native"), { recursive: true });
  fs.copyFileSync(path.join(root, "dist/errors.js"), path.join(folder, "dist/errors.js"));
  for (const file of [addon, preload]) {
    const target = path.join(folder, path.relative(root, file));
    fs.mkdirSync(path.dirname(target), { recursive: true });
    fs.copyFileSync(file, target);
  }
});
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

interface Report {
  code?: string;
  message?: string;
  remedies?: string[];
  torch?: string;
  mapped?: string;
}

function load(env: Record<string, string>, before = ""): Report {
  const code = `${before}
    try {
      const { loadAddon } = await import(${JSON.stringify(path.join(folder, "dist/native/loader.js"))});
      const torch = loadAddon().versions.torch;
      const maps = (await import("node:fs")).readFileSync("/proc/self/maps", "utf8");
      console.log(JSON.stringify({ torch, mapped: /\\S*libtorch_cpu\\.so/.exec(maps)[0] }));
    } catch ({ code, message, remedies }) {
      console.log(JSON.stringify({ code, message, remedies }));
    }`;
  const output = execFileSync(process.execPath, ["--input-type=module", "-e", code], {
    encoding: "utf8",
    env: {
      ...process.env,
      CHATSPACE_ADDON: "",
      CHATSPACE_LIBTORCH: "",
      CHATSPACE_CACHE: path.join(folder, "cache"),
      ...env,
    },
  });
  return JSON.parse(output.trim().split("\n").at(-1) ?? "{}") as Report;
}

describe.skipIf(!ready)("the addon's loader", () => {
  it("names every place it looked for a libtorch, and the command that gets one", () => {
    const got = load({});
    expect(got.code).toBe("ERR_LIBTORCH_MISSING");
    for (const place of ["vendor/libtorch", "cache/libtorch-2.11.0-cpu", "cache/libtorch-2.11.0-cuda"])
      expect(got.message).toContain(path.join(folder, place));
    expect(got.remedies?.join()).toContain("fetch-libtorch.mjs");
  });

  it("opens a libtorch that lies elsewhere than at the addon's rpath", () => {
    const got = load({ CHATSPACE_LIBTORCH: libtorch });
    expect(got.message).toBeUndefined();
    expect(got.mapped).toBe(fs.realpathSync(path.join(libtorch, "lib/libtorch_cpu.so")));
  });

  it("finds a libtorch in the user cache", () => {
    const cache = fs.mkdtempSync(path.join(folder, "cache-"));
    fs.symlinkSync(fs.realpathSync(libtorch), path.join(cache, "libtorch-2.11.0-cpu"));
    expect(load({ CHATSPACE_CACHE: cache }).torch).toMatch(/^2\.\d+/);
  });

  it("names the path of CHATSPACE_ADDON when nothing is there", () => {
    const got = load({ CHATSPACE_ADDON: "/nowhere/addon.node" });
    expect(got.code).toBe("ERR_ADDON_MISSING");
    expect(got.message).toContain("/nowhere/addon.node");
  });

  it("gives the dynamic loader's reason for a damaged addon", () => {
    const damaged = path.join(folder, "damaged.node");
    fs.writeFileSync(damaged, fs.readFileSync(addon).subarray(0, 4096));
    const got = load({ CHATSPACE_ADDON: damaged, CHATSPACE_LIBTORCH: libtorch });
    expect(got.code).toBe("ERR_ADDON_LOAD");
    expect(got.message).toContain(damaged);
    expect(got.remedies?.length).toBeGreaterThan(0);
  });

  it("refuses an addon of another contract", () => {
    const contract = path.join(folder, "dist/native/contract.js");
    const kept = fs.readFileSync(contract, "utf8");
    try {
      fs.writeFileSync(contract, "export const CONTRACT_VERSION = 999999;\n");
      const got = load({ CHATSPACE_LIBTORCH: libtorch });
      expect(got.code).toBe("ERR_ADDON_CONTRACT");
      expect(got.message).toContain("expected an addon of contract 999999");
    } finally {
      fs.writeFileSync(contract, kept);
    }
  });

  it("refuses a libtorch of another minor version", () => {
    const other = path.join(folder, "other");
    fs.mkdirSync(other);
    fs.symlinkSync(fs.realpathSync(path.join(libtorch, "lib")), path.join(other, "lib"));
    fs.writeFileSync(path.join(other, "build-version"), "2.99.0\n");
    const got = load({ CHATSPACE_LIBTORCH: other });
    expect(got.code).toBe("ERR_LIBTORCH_VERSION");
    expect(got.message).toContain("is 2.99.0");
  });

  it("loads in workers that are ended at once", () => {
    const before = `
      const { Worker } = await import("node:worker_threads");
      const code = \`import(${JSON.stringify(path.join(folder, "dist/native/loader.js"))}).then(({ loadAddon }) =>
        require("node:worker_threads").parentPort.postMessage(loadAddon().versions.contract))\`;
      await Promise.all([1, 2, 3].map(() => new Promise((resolve, reject) => {
        const worker = new Worker(code, { eval: true, execArgv: [] });
        worker.on("error", reject);
        worker.on("message", () => worker.terminate().then(resolve));
      })));`;
    expect(load({ CHATSPACE_LIBTORCH: libtorch }, before).torch).toMatch(/^2\.\d+/);
  });
});
