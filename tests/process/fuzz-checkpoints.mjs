// SPDX-License-Identifier: Apache-2.0
// Damages checkpoints (safetensors, GGUF, torch.save) in many ways and converts each: an archive or a typed
// error, never a crash, a hang, or memory out of all proportion. A process of its own, which the test
// watches: node fuzz-checkpoints.mjs SOURCE COUNT SEED, SOURCE a Hugging Face folder or a GGUF file.

import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { convert, planFrom } from "../../dist/model/convert.js";

const [source, count, seed] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];

/** Deterministic numbers in [0, 1), so that a failure can be found again. */
function generator(start) {
  let state = start >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

const random = generator(seed);
const below = (n) => Math.floor(random() * n);

/** Bytes that parsers trip over: sizes near the limits of their types. */
const NUMBERS = [0n, 1n, 0x7fn, 0xffn, 0x7fffffffn, 0xffffffffn, 0x7fffffffffffffffn, 0xffffffffffffffffn];

function damage(good) {
  const kind = random();
  if (kind < 0.15) return good.subarray(0, below(good.length));
  const bytes = Uint8Array.from(good);
  // Headers lie in front of a safetensors and a GGUF file, directories at the end of a zip.
  const place = () => {
    const where = random();
    if (where < 0.6) return below(Math.min(bytes.length, 4000));
    return where < 0.8 ? bytes.length - 1 - below(Math.min(bytes.length, 4000)) : below(bytes.length);
  };
  for (let i = 0; i <= below(4); i++) {
    const at = place();
    if (kind < 0.5) bytes[at] ^= 1 << below(8);
    else if (kind < 0.75) bytes[at] = below(256);
    else {
      const view = new DataView(bytes.buffer);
      const size = random() < 0.5 ? 4 : 8;
      const from = Math.min(at, bytes.length - size);
      const value = NUMBERS[below(NUMBERS.length)];
      if (size === 4) view.setUint32(from, Number(value & 0xffffffffn), true);
      else view.setBigUint64(from, value, true);
    }
  }
  return bytes;
}

const work = mkdtempSync(join(tmpdir(), "chatspace-fuzz-"));
const isFolder = statSync(source).isDirectory();
const weights = isFolder
  ? join(source, readdirSync(source).find((name) => /^(model\.safetensors|pytorch_model\.bin)$/.test(name)))
  : source;
const good = readFileSync(weights);
if (isFolder)
  for (const name of readdirSync(source))
    if (name.endsWith(".json")) copyFileSync(join(source, name), join(work, name));
const target = join(work, basename(weights));
const asked = isFolder ? work : target;
const output = join(work, "out.pt");

const ends = {};
// Milliseconds of processor time of the slowest.
let [slowest, converted] = [0, 0];
/** What an undamaged conversion costs is no fault of the damage. */
writeFileSync(target, good);
await convert(asked, output);
globalThis.gc();
const before = process.memoryUsage().rss;
let peak = before;
for (let i = 0; i < count; i++) {
  writeFileSync(target, damage(good));
  const start = process.cpuUsage();
  let end = "planned";
  try {
    planFrom(asked);
    // Compiling a family takes some ten milliseconds: one in ten of what still plans is written, too.
    if (i % 10 === 0) {
      await convert(asked, output, random() < 0.3 ? { quantize: "int8" } : {});
      end = "converted";
      converted++;
    }
  } catch (error) {
    end = error?.code ?? String(error?.stack ?? error);
  }
  ends[end] = (ends[end] ?? 0) + 1;
  const { user, system } = process.cpuUsage(start);
  slowest = Math.max(slowest, (user + system) / 1000);
  peak = Math.max(peak, process.memoryUsage().rss);
}
const left = readdirSync(work).filter((name) => name.includes("tmp") || name.startsWith("."));
rmSync(work, { recursive: true, force: true });
console.log(JSON.stringify({ ends, converted, slowest, grown: peak - before, left, bytes: good.length }));
