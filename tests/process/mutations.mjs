// SPDX-License-Identifier: Apache-2.0
// Damages an archive in many ways and loads each: a typed error or a model that runs, never a crash. Runs
// in a process of its own, which the test watches. Two kinds of damage: bytes flipped anywhere, and records
// rewritten with checksums that are right again, as an attacker would.

import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { crc32 } from "node:zlib";

/** Deterministic numbers in [0, 1). */
function generator(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** The records of an archive as its directory lists them, with the places of their checksums. */
function records(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const found = [];
  for (let at = 0; at + 46 < bytes.length; at++) {
    if (view.getUint32(at, true) !== 0x02014b50) continue;
    const nameLength = view.getUint16(at + 28, true);
    const local = view.getUint32(at + 42, true);
    found.push({
      name: Buffer.from(bytes.subarray(at + 46, at + 46 + nameLength)).toString(),
      size: view.getUint32(at + 24, true),
      start: local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true),
      checksum: at + 16,
    });
  }
  return found;
}

function flipAnywhere(bytes, random) {
  const flips = 1 + Math.floor(random() * 4);
  for (let i = 0; i < flips; i++) {
    // Half of them where the zip directory is, the rest anywhere.
    const at = random() < 0.5 ? bytes.length - 1 - Math.floor(random() * 2000) : Math.floor(random() * bytes.length);
    bytes[at] ^= 1 << Math.floor(random() * 8);
  }
}

function rewriteRecord(bytes, random) {
  const wanted = records(bytes).filter((record) => /\.pkl$|\/code\/|\/version$|\/byteorder$/.test(record.name));
  const record = wanted[Math.floor(random() * wanted.length)];
  const data = bytes.subarray(record.start, record.start + record.size);
  const changes = 1 + Math.floor(random() * 6);
  for (let i = 0; i < changes; i++) data[Math.floor(random() * data.length)] = Math.floor(random() * 256);
  new DataView(bytes.buffer, bytes.byteOffset).setUint32(record.checksum, crc32(data), true);
}

/** Loads `count` damaged copies of `source`; how each ended. */
export async function mutate(open, run, source, count, kind) {
  const good = readFileSync(source);
  const random = generator(kind === "flips" ? 1 : 2);
  const path = `${process.env.MUTATION_FOLDER}/mutated-${process.pid}.pt`;
  const ends = {};
  for (let i = 0; i < count; i++) {
    const bytes = Uint8Array.from(good);
    if (kind === "flips") flipAnywhere(bytes, random);
    else rewriteRecord(bytes, random);
    writeFileSync(path, bytes);
    let end = "ran";
    try {
      const model = await open(path, { threads: 1, cacheBytes: 1 << 20 });
      await run(model, { maxTokens: 3 }).catch((error) => {
        end = `request ${error.code}`;
      });
      await model.dispose();
    } catch (error) {
      end = error.code ?? String(error);
    }
    ends[end] = (ends[end] ?? 0) + 1;
    // What the last one was, should this process die of the next.
    if (process.env.MUTATION_KEEP) writeFileSync(process.env.MUTATION_KEEP, String(i));
  }
  rmSync(path, { force: true });
  return { ends, count };
}
