// SPDX-License-Identifier: Apache-2.0
// The dangers of getting libtorch: nobody answers, the answer breaks off, the archive is cut, damaged or
// of another version, two processes want it at once.

import fs from "node:fs";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { World, zip } from "./fetch-libtorch-world.ts";

let world: World;
beforeEach(() => {
  world = new World();
});
afterEach(() => world.dispose());

const home = () => path.join(world.cache, "libtorch-2.11.0-cpu");

describe("fetch-libtorch", () => {
  it("says within seconds why each source failed when nothing is reachable", async () => {
    const got = await world.fetch([], { CHATSPACE_PYTHON: "python3" });
    expect(got.code).toBe(3);
    expect(got.stdout).toBe("");
    for (const source of ["vendor/libtorch", "user cache", "Python torch", "PyTorch archive", "torch wheel"])
      expect(got.stderr).toContain(`  - ${source}: `);
    expect(got.stderr).toMatch(/PyTorch archive: 127\.0\.0\.1:65533: .*ECONNREFUSED/);
    expect(got.stderr).toMatch(/torch wheel: (torch==2\.11\.0: .*[Cc]onnection|python3 -m pip does not run)/);
    expect(got.stderr).toContain("CHATSPACE_LIBTORCH=");
    expect(got.ms).toBeLessThan(15_000);
  });

  it("gives up on a server that accepts and stays silent", async () => {
    const url = await world.serve(() => undefined);
    const got = await world.fetch([], { CHATSPACE_LIBTORCH_URL: url });
    expect(got.code).toBe(3);
    expect(got.stderr).toContain("no answer in 2 s");
    expect(got.ms).toBeLessThan(10_000);
  });

  it("unpacks an archive, records every library, and needs no network the second time", async () => {
    const archive = zip(world.libtorch());
    const url = await world.serve((_request, response) => response.end(archive));
    const got = await world.fetch([], { CHATSPACE_LIBTORCH_URL: url });
    expect(got.stderr).toContain("from: PyTorch archive");
    expect(got.code).toBe(0);
    const manifest = JSON.parse(fs.readFileSync(path.join(home(), "manifest.json"), "utf8"));
    expect(Object.keys(manifest.files)).toEqual(["lib/libc10.so", "lib/libtorch_cpu.so"]);
    expect(fs.realpathSync(path.join(world.root, "vendor/libtorch"))).toBe(fs.realpathSync(home()));
    expect(fs.readdirSync(path.join(world.cache, "downloads"))).toEqual([]);

    fs.rmSync(path.join(world.root, "vendor"), { recursive: true });
    const again = await world.fetch(["--json"]);
    expect(JSON.parse(again.stdout)).toMatchObject({ version: "2.11.0", cuda: false, source: "user cache" });
  });

  it("goes on where a broken download stopped", async () => {
    const archive = zip(world.libtorch());
    const half = Math.floor(archive.length / 2);
    const ranges: (string | undefined)[] = [];
    const url = await world.serve((request, response) => {
      ranges.push(request.headers.range);
      response.setHeader("etag", '"one"');
      if (request.headers.range) {
        expect(request.headers["if-range"]).toBe('"one"');
        const from = Number(/bytes=(\d+)-/.exec(request.headers.range)?.[1]);
        response.writeHead(206, { "content-length": archive.length - from });
        response.end(archive.subarray(from));
      } else {
        response.writeHead(200, { "content-length": archive.length });
        response.write(archive.subarray(0, half), () => setTimeout(() => response.destroy(), 100));
      }
    });
    const broken = await world.fetch([], { CHATSPACE_LIBTORCH_URL: url });
    expect(broken.code).toBe(3);
    expect(broken.stderr).toContain("broken off at");
    const whole = await world.fetch([], { CHATSPACE_LIBTORCH_URL: url });
    expect(whole.code).toBe(0);
    expect(ranges).toEqual([undefined, `bytes=${half}-`]);
  });

  it("refuses a truncated archive and keeps nothing of it", async () => {
    const archive = zip(world.libtorch());
    const url = await world.serve((_request, response) =>
      response.end(archive.subarray(0, archive.length - 40)),
    );
    const got = await world.fetch([], { CHATSPACE_LIBTORCH_URL: url });
    expect(got.code).toBe(3);
    expect(got.stderr).toContain("truncated");
    expect(fs.existsSync(home())).toBe(false);
    expect(fs.readdirSync(path.join(world.cache, "downloads"))).toEqual([]);
  });

  it("refuses an archive with a flipped byte", async () => {
    const files = world.libtorch();
    const archive = zip(files);
    // Members are deflated and stored in turn; libtorch_cpu.so, the fourth, is stored as it is.
    archive[archive.indexOf(files.get("libtorch/lib/libtorch_cpu.so") as Buffer) + 1000]! ^= 1;
    const url = await world.serve((_request, response) => response.end(archive));
    const got = await world.fetch([], { CHATSPACE_LIBTORCH_URL: url });
    expect(got.code).toBe(3);
    expect(got.stderr).toMatch(/damaged: libtorch\/lib\/libtorch_cpu\.so has \d+ bytes and crc/);
    expect(fs.existsSync(home())).toBe(false);
  });

  it("refuses a wheel whose library differs from its RECORD", async () => {
    const { unpackLibtorch } = await import(path.join(world.root, "scripts/lib/libtorch-unpack.mjs"));
    const files = new Map(
      [...world.libtorch()].map(([name, bytes]) => [name.replace("libtorch/", "torch/"), bytes]),
    );
    files.set("torch-2.11.0.dist-info/RECORD", Buffer.from("torch/lib/libc10.so,sha256=AAAA,1\n"));
    const torch = path.join(world.root, "torch.whl");
    fs.writeFileSync(torch, zip(files));
    const target = path.join(world.root, "unpacked");
    await expect(
      unpackLibtorch({ torch, extras: [], cuda: false, version: "2.11.0", source: "test", target }),
    ).rejects.toThrow(/libc10\.so has sha256 [0-9a-f]{64}, its RECORD says 000000/);
    expect(fs.readdirSync(world.root).filter((name) => name.startsWith("unpacked"))).toEqual([]);
  });

  it("refuses a member that would be written outside", async () => {
    const files = world.libtorch();
    files.set("libtorch/include/../../../escaped.h", Buffer.from("x"));
    const archive = zip(files);
    const url = await world.serve((_request, response) => response.end(archive));
    const got = await world.fetch([], { CHATSPACE_LIBTORCH_URL: url });
    expect(got.stderr).toContain("refused member");
    expect(fs.existsSync(path.join(world.cache, "escaped.h"))).toBe(false);
  });

  it("notices a library that changed after it was unpacked", async () => {
    const archive = zip(world.libtorch());
    const url = await world.serve((_request, response) => response.end(archive));
    expect((await world.fetch([], { CHATSPACE_LIBTORCH_URL: url })).code).toBe(0);
    const library = path.join(home(), "lib/libc10.so");
    const bytes = fs.readFileSync(library);
    bytes[bytes.length - 1]! ^= 1;
    fs.writeFileSync(library, bytes);
    const checked = await world.fetch(["--verify", "--offline"]);
    expect(checked.code).toBe(3);
    expect(checked.stderr).toMatch(/lib\/libc10\.so has sha256 [0-9a-f]{64}, its manifest says/);
    fs.truncateSync(library, 100);
    const cut = await world.fetch(["--offline"]);
    expect(cut.stderr).toMatch(/lib\/libc10\.so has 100 bytes, its manifest says/);
  });

  it("downloads once when two processes ask at once", async () => {
    const archive = zip(world.libtorch());
    let requests = 0;
    const url = await world.serve((_request, response) => {
      requests += 1;
      setTimeout(() => response.end(archive), 500);
    });
    const both = await Promise.all([1, 2].map(() => world.fetch([], { CHATSPACE_LIBTORCH_URL: url })));
    expect(both.map(({ code }) => code)).toEqual([0, 0]);
    expect(requests).toBe(1);
  });

  it("takes over the lock of a process that is gone", async () => {
    fs.mkdirSync(path.join(world.cache, "locks"), { recursive: true });
    const { hostname } = await import("node:os");
    const lock = path.join(world.cache, "locks/libtorch-2.11.0-cpu.lock");
    fs.writeFileSync(lock, JSON.stringify({ pid: 2 ** 22 - 1, host: hostname() }));
    const archive = zip(world.libtorch());
    const url = await world.serve((_request, response) => response.end(archive));
    expect((await world.fetch([], { CHATSPACE_LIBTORCH_URL: url })).code).toBe(0);
    expect(fs.existsSync(lock)).toBe(false);
  });

  it("refuses a version that was never tried, and a libtorch that is not whole", async () => {
    const old = world.folder("old", world.libtorch("2.9.1"));
    const refused = await world.fetch(["--libtorch", old]);
    expect(refused.code).toBe(3);
    expect(refused.stderr).toContain("version 2.9.1, expected 2.11 to 2.15");

    const partial = world.folder("partial", world.libtorch());
    fs.rmSync(path.join(partial, "lib/libc10.so"));
    const gap = await world.fetch([], { CHATSPACE_LIBTORCH: partial });
    expect(gap.stderr).toContain("lib/libc10.so is missing");
  });

  it("leaves a real vendor/libtorch folder alone", async () => {
    const vendor = world.folder("vendor/libtorch", world.libtorch("2.13.0"));
    const got = await world.fetch(["--json"]);
    expect(JSON.parse(got.stdout)).toMatchObject({ directory: vendor, version: "2.13.0" });
    expect(fs.lstatSync(vendor).isSymbolicLink()).toBe(false);
  });
});
