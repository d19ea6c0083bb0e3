// SPDX-License-Identifier: Apache-2.0
// What the embedding tests share: data, folders, a run in a process of its own that can be killed.

import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { EmbedConfig } from "../../src/embed/config.ts";

export const ROOT = fileURLToPath(new URL("../../", import.meta.url));
export const SHARED = fileURLToPath(new URL("../../../shared/", import.meta.url));
export const TINY = fileURLToPath(new URL("./fixtures/tiny-encoder", import.meta.url));
const DRIVER = fileURLToPath(new URL("./fixtures/run-embed.mjs", import.meta.url));

/** Stages run from dist; compiles it when a source is newer. */
export function ensureBuilt(): void {
  const newest = (folder: string): number =>
    Math.max(
      0,
      ...readdirSync(folder, { withFileTypes: true }).map((entry) =>
        entry.isDirectory() ? newest(join(folder, entry.name)) : statSync(join(folder, entry.name)).mtimeMs,
      ),
    );
  const marker = join(ROOT, "dist/embed/stages/writer.js");
  const sources = Math.max(newest(join(ROOT, "src/embed")), newest(join(ROOT, "src/data")));
  if (existsSync(marker) && newest(join(ROOT, "dist/embed")) >= sources) return;
  try {
    execFileSync("npx", ["tsc", "-p", "."], { cwd: ROOT, stdio: "pipe" });
  } catch (error) {
    // Types are checked elsewhere; what was emitted runs.
    if (!existsSync(marker)) throw error;
  }
}

/** A folder that is gone after the test file. */
export function scratch(name: string): string {
  const folder = mkdtempSync(join(tmpdir(), `chatspace-test-${name}-`));
  process.once("exit", () => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

const WORDS = "the of and a to in is was he for it with as his on be at by i this had not are but from".split(
  " ",
);

/** Rows of 1 to `most` words drawn from a fixed sequence; every 37th is empty. */
export function textRows(count: number, most = 40): { text: string; label: number; tag: string | null }[] {
  let state = 12345;
  const next = (below: number): number => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return (state >>> 8) % below;
  };
  return Array.from({ length: count }, (_, i) => {
    const words = Array.from({ length: 1 + next(most) }, () => WORDS[next(WORDS.length)]);
    return {
      text: i % 37 === 36 ? "" : `${words.join(" ")} ${i}`,
      label: i % 7,
      tag: i % 3 === 0 ? null : `t${i % 5}`,
    };
  });
}

/** Writes rows as JSON lines, split over two files. */
export function writeJsonl(folder: string, rows: readonly object[]): string {
  mkdirSync(folder, { recursive: true });
  const half = Math.floor(rows.length * 0.6);
  const lines = rows.map((row) => `${JSON.stringify(row)}\n`);
  writeFileSync(join(folder, "part-0.jsonl"), lines.slice(0, half).join(""));
  writeFileSync(join(folder, "part-1.jsonl"), lines.slice(half).join(""));
  return folder;
}

/** Hashes of shards, and the manifest without what may differ between two runs of the same work. */
export function fingerprintOf(root: string): { shards: Record<string, string>; manifest: unknown } {
  const shards: Record<string, string> = {};
  const walk = (folder: string): void => {
    for (const entry of readdirSync(folder, { withFileTypes: true })) {
      const path = join(folder, entry.name);
      if (entry.isDirectory()) walk(path);
      else shards[path.slice(root.length)] = createHash("sha256").update(readFileSync(path)).digest("hex");
    }
  };
  walk(join(root, "embeddings"));
  return { shards, manifest: comparable(manifestOf(root)) };
}

export function manifestOf(root: string): Record<string, unknown> & { shards: Record<string, unknown>[] } {
  const find = (folder: string): string[] =>
    readdirSync(folder, { withFileTypes: true }).flatMap((entry) =>
      entry.isDirectory()
        ? find(join(folder, entry.name))
        : entry.name.startsWith("manifest-")
          ? [join(folder, entry.name)]
          : [],
    );
  const [path] = find(join(root, "indexes"));
  if (path === undefined) throw new Error(`no manifest under ${root}`);
  return JSON.parse(readFileSync(path, "utf8"));
}

function comparable(manifest: Record<string, unknown> & { shards: Record<string, unknown>[] }): unknown {
  const config = { ...(manifest.run_config as Record<string, unknown>) };
  for (const key of ["output_root", "resume", "shard_range", "run_id", "manifest_path"]) delete config[key];
  return {
    ...manifest,
    run_config: config,
    shards: manifest.shards.map(({ created_at: _, location: _l, tool: _t, ...shard }) => shard),
  };
}

export interface DriverRun {
  child: ChildProcess;
  /** Process ids of the stages, once they run. */
  stages: Promise<Record<string, number>>;
  /** How it ended, and its last line as JSON. */
  ended: Promise<{
    code: number | null;
    signal: string | null;
    result: Record<string, unknown> | null;
    stderr: string;
  }>;
}

/** embedDataset in a process of its own, with a fixed time so that bytes can be compared. */
export function startRun(
  config: EmbedConfig,
  env: Record<string, string> = {},
  wrap: string[] = [],
): DriverRun {
  const argv = [...wrap, process.execPath, DRIVER, JSON.stringify(config)];
  const child = spawn(argv[0] as string, argv.slice(1), {
    env: { ...process.env, SOURCE_DATE_EPOCH: "1700000000", ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let out = "";
  let stderr = "";
  let announce: (pids: Record<string, number>) => void = () => undefined;
  const stages = new Promise<Record<string, number>>((resolve) => {
    announce = resolve;
  });
  child.stdout?.on("data", (chunk: Buffer) => {
    out += chunk.toString();
    const line = out.split("\n").find((text) => text.startsWith('{"stages"'));
    if (line !== undefined) announce((JSON.parse(line) as { stages: Record<string, number> }).stages);
  });
  child.stderr?.on("data", (chunk: Buffer) => {
    stderr += chunk.toString();
  });
  const ended = new Promise<Awaited<DriverRun["ended"]>>((resolve) => {
    child.on("close", (code, signal) => {
      announce({});
      const last = out.trim().split("\n").at(-1) ?? "";
      resolve({ code, signal, result: last.startsWith("{") ? JSON.parse(last) : null, stderr });
    });
  });
  return { child, stages, ended };
}

/** Runs until complete, resuming as often as it takes. */
export async function runToEnd(config: EmbedConfig, most = 5): Promise<void> {
  for (let attempt = 0; attempt < most; attempt++) {
    const { code, result, stderr } = await startRun({ ...config, resume: true }).ended;
    if (code === 0) return;
    if (attempt === most - 1) throw new Error(`ended with ${code}: ${JSON.stringify(result)} ${stderr}`);
  }
}

/** Says whether a process is there. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
