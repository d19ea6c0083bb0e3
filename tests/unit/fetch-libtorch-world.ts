// SPDX-License-Identifier: Apache-2.0
// A world of its own for the fetch-libtorch tests: a copy of scripts/ in a temporary package, a cache, a
// small libtorch (real ELF libraries, real headers' version file), zip archives and a server to break.

import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import fs from "node:fs";
import http from "node:http";
import type { AddressInfo } from "node:net";
import os from "node:os";
import path from "node:path";
import zlib from "node:zlib";

const repository = path.resolve(import.meta.dirname, "../..");
/** A port nothing listens on: connections are refused at once. */
const NOWHERE = "http://127.0.0.1:65533";

export interface Outcome {
  code: number | null;
  stdout: string;
  stderr: string;
  ms: number;
}

export class World {
  readonly root: string = fs.mkdtempSync(path.join(os.tmpdir(), "fetch-libtorch-"));
  readonly cache: string = path.join(this.root, "cache");
  readonly #children = new Set<ChildProcess>();
  readonly #servers = new Set<http.Server>();

  constructor() {
    fs.cpSync(path.join(repository, "scripts"), path.join(this.root, "scripts"), { recursive: true });
    fs.writeFileSync(path.join(this.root, "package.json"), '{ "type": "module" }');
  }

  /** Runs the script with nothing reachable but what `env` opens. */
  fetch(args: string[] = [], env: Record<string, string> = {}): Promise<Outcome> {
    const started = Date.now();
    const child = spawn(process.execPath, [path.join(this.root, "scripts/fetch-libtorch.mjs"), ...args], {
      env: {
        ...process.env,
        CHATSPACE_LIBTORCH: "",
        CHATSPACE_CACHE: this.cache,
        CHATSPACE_PYTHON: path.join(this.root, "no-python"),
        CHATSPACE_LIBTORCH_URL: NOWHERE,
        PIP_INDEX_URL: NOWHERE,
        PIP_EXTRA_INDEX_URL: "",
        PIP_FIND_LINKS: "",
        ...env,
      },
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.#children.add(child);
    let stdout = "";
    let stderr = "";
    child.stdout.on("data", (chunk) => {
      stdout += chunk;
    });
    child.stderr.on("data", (chunk) => {
      stderr += chunk;
    });
    return new Promise((resolve) => {
      child.on("close", (code) => {
        this.#children.delete(child);
        resolve({ code, stdout, stderr, ms: Date.now() - started });
      });
    });
  }

  async serve(handler: http.RequestListener): Promise<string> {
    const server = http.createServer(handler);
    this.#servers.add(server);
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  }

  /** Files of a small libtorch, by name in a PyTorch archive. */
  libtorch(version = "2.11.0"): Map<string, Buffer> {
    const [major, minor, patch] = version.split(".");
    const header = `#define TORCH_VERSION_MAJOR ${major}\n#define TORCH_VERSION_MINOR ${minor}\n#define TORCH_VERSION_PATCH ${patch}\n`;
    return new Map([
      ["libtorch/include/torch/script.h", Buffer.from("#pragma once\n")],
      ["libtorch/include/torch/headeronly/version.h", Buffer.from(header)],
      ["libtorch/lib/libc10.so", this.#library("c10", [])],
      ["libtorch/lib/libtorch_cpu.so", this.#library("torch_cpu", ["c10"])],
    ]);
  }

  folder(name: string, files: Map<string, Buffer>): string {
    for (const [file, bytes] of files) {
      const place = path.join(this.root, name, file.replace(/^(lib)?torch\//, ""));
      fs.mkdirSync(path.dirname(place), { recursive: true });
      fs.writeFileSync(place, bytes);
    }
    return path.join(this.root, name);
  }

  dispose(): void {
    for (const child of this.#children) child.kill("SIGKILL");
    for (const server of this.#servers) {
      server.closeAllConnections();
      server.close();
    }
    fs.rmSync(this.root, { recursive: true, force: true });
  }

  #library(name: string, needs: string[]): Buffer {
    const folder = path.join(this.root, "libraries");
    fs.mkdirSync(folder, { recursive: true });
    const file = path.join(folder, `lib${name}.so`);
    const source = path.join(folder, `${name}.c`);
    fs.writeFileSync(source, `int ${name}_answer(void) { return 42; }\n`);
    const args = [
      "-shared",
      "-fPIC",
      `-Wl,-soname,lib${name}.so`,
      "-Wl,--no-as-needed",
      "-o",
      file,
      source,
      "-L",
      folder,
    ];
    execFileSync("cc", [...args, ...needs.map((need) => `-l${need}`)]);
    return fs.readFileSync(file);
  }
}

/** A zip archive: every other member deflated, the rest stored. */
export function zip(files: Map<string, Buffer>): Buffer {
  const parts: Buffer[] = [];
  const directory: Buffer[] = [];
  let offset = 0;
  let count = 0;
  for (const [name, bytes] of files) {
    const deflate = count % 2 === 0;
    const packed = deflate ? zlib.deflateRawSync(bytes) : bytes;
    const local = Buffer.alloc(30);
    local.writeUInt32LE(0x04034b50, 0);
    local.writeUInt16LE(deflate ? 8 : 0, 8);
    local.writeUInt32LE(zlib.crc32(bytes), 14);
    local.writeUInt32LE(packed.length, 18);
    local.writeUInt32LE(bytes.length, 22);
    local.writeUInt16LE(Buffer.byteLength(name), 26);
    const central = Buffer.alloc(46);
    central.writeUInt32LE(0x02014b50, 0);
    local.copy(central, 8, 6, 28);
    central.writeUInt16LE(Buffer.byteLength(name), 28);
    central.writeUInt32LE(offset, 42);
    directory.push(central, Buffer.from(name));
    parts.push(local, Buffer.from(name), packed);
    offset += 30 + Buffer.byteLength(name) + packed.length;
    count += 1;
  }
  const central = Buffer.concat(directory);
  const end = Buffer.alloc(22);
  end.writeUInt32LE(0x06054b50, 0);
  end.writeUInt16LE(count, 8);
  end.writeUInt16LE(count, 10);
  end.writeUInt32LE(central.length, 12);
  end.writeUInt32LE(offset, 16);
  return Buffer.concat([...parts, central, end]);
}
