// SPDX-License-Identifier: Apache-2.0
// The few facts of a 64-bit little-endian ELF library that decide whether it can be loaded here: its
// machine, the libraries it needs and where it looks for them.
import fs from "node:fs";

const DT_NEEDED = 1n;
const DT_STRTAB = 5n;
const DT_RPATH = 15n;
const DT_RUNPATH = 29n;

/** { machine, needed: string[], searchPath: string[] }, or null when the file is no such library. */
export function readElf(file) {
  const handle = fs.openSync(file, "r");
  const at = (offset, length) => {
    const bytes = Buffer.alloc(length);
    return fs.readSync(handle, bytes, 0, length, Number(offset)) === length ? bytes : null;
  };
  try {
    const header = at(0, 64);
    if (header?.toString("latin1", 0, 4) !== "\x7fELF" || header[4] !== 2 || header[5] !== 1) return null;
    const count = header.readUInt16LE(56);
    const size = header.readUInt16LE(54);
    const table = at(header.readBigUInt64LE(32), count * size);
    if (!table) return null;
    const segments = Array.from({ length: count }, (_, index) => {
      const base = index * size;
      return {
        type: table.readUInt32LE(base),
        offset: table.readBigUInt64LE(base + 8),
        address: table.readBigUInt64LE(base + 16),
        bytes: table.readBigUInt64LE(base + 32),
      };
    });
    const dynamic = segments.find((segment) => segment.type === 2);
    const entries = dynamic && at(dynamic.offset, Number(dynamic.bytes));
    if (!entries) return null;
    const tags = [];
    for (let position = 0; position + 16 <= entries.length; position += 16)
      tags.push([entries.readBigInt64LE(position), entries.readBigUInt64LE(position + 8)]);
    const stringsAddress = tags.find(([tag]) => tag === DT_STRTAB)?.[1] ?? 0n;
    const holder = segments.find(
      (s) => s.type === 1 && stringsAddress >= s.address && stringsAddress < s.address + s.bytes,
    );
    if (!holder) return null;
    const text = (offset) => {
      const bytes = Buffer.alloc(4096);
      const start = Number(stringsAddress - holder.address + holder.offset + offset);
      const got = fs.readSync(handle, bytes, 0, bytes.length, start);
      const end = bytes.indexOf(0);
      return bytes.toString("utf8", 0, end < 0 ? got : end);
    };
    const all = (wanted) => tags.filter(([tag]) => tag === wanted).map(([, value]) => text(value));
    return {
      machine: header.readUInt16LE(18),
      needed: all(DT_NEEDED),
      searchPath: [...all(DT_RPATH), ...all(DT_RUNPATH)].flatMap((list) => list.split(":")),
    };
  } finally {
    fs.closeSync(handle);
  }
}
