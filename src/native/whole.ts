// SPDX-License-Identifier: Apache-2.0
// Whether a shared library is all there. The dynamic loader maps a cut file without a word and the
// process dies of SIGBUS when it touches the missing part, so this is asked before.

import fs from "node:fs";

const LOAD = 1;

/** Why the file is no whole 64-bit ELF library, or null. Other platforms' formats are not looked at. */
export function libraryDamage(file: string): string | null {
  if (process.platform !== "linux") return null;
  const handle = fs.openSync(file, "r");
  try {
    const size = fs.fstatSync(handle).size;
    const header = Buffer.alloc(64);
    if (fs.readSync(handle, header, 0, 64, 0) < 64 || header.toString("latin1", 0, 4) !== "\x7fELF")
      return "is no ELF library";
    if (header[4] !== 2 || header[5] !== 1) return "is no 64-bit little-endian library";
    const entry = header.readUInt16LE(54);
    const table = Buffer.alloc(header.readUInt16LE(56) * entry);
    if (fs.readSync(handle, table, 0, table.length, Number(header.readBigUInt64LE(32))) < table.length)
      return `is cut off at ${size} bytes`;
    for (let at = 0; at + 40 <= table.length; at += entry) {
      if (table.readUInt32LE(at) !== LOAD) continue;
      const end = table.readBigUInt64LE(at + 8) + table.readBigUInt64LE(at + 32);
      if (end > BigInt(size)) return `is cut off at ${size} bytes of at least ${end}`;
    }
    return null;
  } finally {
    fs.closeSync(handle);
  }
}
