// SPDX-License-Identifier: Apache-2.0
// Zip archives: the part that torch.save and wheels use (stored and deflated entries, zip64). The central
// directory is the only table that is believed, and only after its offsets, sizes and names are checked;
// what an entry inflates to is bounded by the size it declares.
// Format: PKWARE APPNOTE 6.3.

import { crc32, inflateRawSync } from "node:zlib";
import { DataError } from "../errors.ts";
import { type ByteSource, withSource } from "./byte-source.ts";

export interface ZipEntry {
  readonly name: string;
  readonly size: number;
  readonly compressed: number;
  /** 0 = stored, 8 = deflated. */
  readonly method: number;
  readonly crc: number;
  /** Offset of the entry's local header. */
  readonly header: number;
}

const END = 0x06054b50;
const END64 = 0x06064b50;
const LOCATOR64 = 0x07064b50;
const CENTRAL = 0x02014b50;
const LOCAL = 0x04034b50;
const MAX_ENTRIES = 1_000_000;
// Deflate cannot shrink more than about 1032 times; a larger claim is a lie.
const MAX_RATIO = 1040;

/** The table of an archive, by name. Throws ERR_ZIP. */
export function readZipDirectory(source: string | Uint8Array | ByteSource): Map<string, ZipEntry> {
  return withSource(source, "zip bytes", (bytes) => {
    const { offset, size, count } = findDirectory(bytes);
    if (size > bytes.size || offset + size > bytes.size || count * 46 > size)
      throw bad(bytes, `${count} directory entries inside the file`, `${size} bytes at ${offset}`);
    const directory = bytes.read(offset, size);
    const view = viewOf(directory);
    const entries = new Map<string, ZipEntry>();
    let at = 0;
    for (let i = 0; i < count; i++) {
      if (at + 46 > size || view.getUint32(at, true) !== CENTRAL)
        throw bad(bytes, `directory entry ${i}`, "something else");
      const lengths = [28, 30, 32].map((field) => view.getUint16(at + field, true)) as [
        number,
        number,
        number,
      ];
      const end = at + 46 + lengths[0] + lengths[1] + lengths[2];
      if (end > size) throw bad(bytes, `directory entry ${i} inside the directory`, "a longer one");
      const entry = readEntry(bytes, view, at, lengths);
      if (entries.has(entry.name)) throw bad(bytes, "each name once", `${entry.name} twice`);
      entries.set(entry.name, entry);
      at = end;
    }
    return entries;
  });
}

/** Where the stored bytes of an entry begin in the file. Throws ERR_ZIP. */
export function zipDataOffset(source: ByteSource, entry: ZipEntry): number {
  const local = viewOf(source.read(entry.header, 30));
  if (local.getUint32(0, true) !== LOCAL)
    throw bad(source, `the local header of ${entry.name}`, "something else");
  const start = entry.header + 30 + local.getUint16(26, true) + local.getUint16(28, true);
  if (start + entry.compressed > source.size)
    throw bad(source, `${entry.name} inside the file`, `its end at ${start + entry.compressed}`);
  return start;
}

/** The bytes of an entry, checked against its size and CRC-32. Throws ERR_ZIP. */
export function readZipEntry(source: ByteSource, entry: ZipEntry): Uint8Array {
  const stored = source.read(zipDataOffset(source, entry), entry.compressed);
  let bytes = stored;
  if (entry.method === 8) {
    try {
      bytes = inflateRawSync(stored, { maxOutputLength: Math.max(1, entry.size) });
    } catch (cause) {
      throw bad(
        source,
        `${entry.name} as deflated data`,
        cause instanceof Error ? cause.message : "something else",
      );
    }
  }
  if (bytes.byteLength !== entry.size)
    throw bad(source, `${entry.size} bytes in ${entry.name}`, `${bytes.byteLength}`);
  if (crc32(bytes) !== entry.crc) throw bad(source, `${entry.name} with its CRC-32`, "other bytes");
  return bytes;
}

/**
 * The bytes of an archive of stored entries, each one's data at a multiple of 64 as torch aligns them.
 * Throws ERR_ZIP beyond 4 GiB.
 */
export function writeStoredZip(entries: readonly { name: string; bytes: Uint8Array }[]): Uint8Array {
  const parts: Uint8Array[] = [];
  const directory: Uint8Array[] = [];
  let at = 0;
  for (const { name, bytes } of entries) {
    const encoded = new TextEncoder().encode(name);
    const unpadded = at + 30 + encoded.length;
    // Padding goes into an extra field, whose own head takes four bytes.
    const padding = 64 - ((unpadded + 4) % 64);
    const extra = new Uint8Array(4 + padding);
    viewOf(extra).setUint16(0, 0x4246, true);
    viewOf(extra).setUint16(2, padding, true);
    const shared = new Uint8Array(26);
    const fields = viewOf(shared);
    fields.setUint16(0, 20, true);
    fields.setUint16(2, 0x800, true);
    // 1 January 1980, the zip epoch: equal input gives equal bytes.
    fields.setUint16(8, 0x21, true);
    fields.setUint32(10, crc32(bytes), true);
    fields.setUint32(14, bytes.byteLength, true);
    fields.setUint32(18, bytes.byteLength, true);
    fields.setUint16(22, encoded.length, true);
    const local = new Uint8Array(30);
    viewOf(local).setUint32(0, LOCAL, true);
    local.set(shared, 4);
    viewOf(local).setUint16(28, extra.length, true);
    const central = new Uint8Array(46);
    viewOf(central).setUint32(0, CENTRAL, true);
    viewOf(central).setUint16(4, 20, true);
    central.set(shared.subarray(0, 24), 6);
    viewOf(central).setUint32(42, at, true);
    directory.push(central, encoded);
    parts.push(local, encoded, extra, bytes);
    at += 30 + encoded.length + extra.length + bytes.byteLength;
  }
  const directorySize = directory.reduce((sum, part) => sum + part.length, 0);
  if (at + directorySize > 0xfffffffe || entries.length > 0xfffe)
    throw new DataError("ERR_ZIP", `an archive of ${at} bytes is beyond the 4 GiB this writer makes`);
  const end = new Uint8Array(22);
  const view = viewOf(end);
  view.setUint32(0, END, true);
  view.setUint16(8, entries.length, true);
  view.setUint16(10, entries.length, true);
  view.setUint32(12, directorySize, true);
  view.setUint32(16, at, true);
  const out = new Uint8Array(at + directorySize + 22);
  let to = 0;
  for (const part of [...parts, ...directory, end]) {
    out.set(part, to);
    to += part.length;
  }
  return out;
}

function findDirectory(source: ByteSource): { offset: number; size: number; count: number } {
  const tailSize = Math.min(source.size, 22 + 65535 + 20);
  const tailStart = source.size - tailSize;
  const tail = source.read(tailStart, tailSize);
  const view = viewOf(tail);
  for (let at = tailSize - 22; at >= 0; at--) {
    if (view.getUint32(at, true) !== END || at + 22 + view.getUint16(at + 20, true) !== tailSize) continue;
    const count = view.getUint16(at + 10, true);
    const size = view.getUint32(at + 12, true);
    const offset = view.getUint32(at + 16, true);
    const wide = at >= 20 && view.getUint32(at - 20, true) === LOCATOR64;
    if (!wide) return { offset, size, count };
    const end64 = Number(view.getBigUint64(at - 12, true));
    if (end64 + 56 > source.size) throw bad(source, "a zip64 directory inside the file", `offset ${end64}`);
    const record = viewOf(source.read(end64, 56));
    if (record.getUint32(0, true) !== END64) throw bad(source, "a zip64 end record", "something else");
    const count64 = Number(record.getBigUint64(32, true));
    if (count64 > MAX_ENTRIES) throw bad(source, `at most ${MAX_ENTRIES} entries`, `${count64}`);
    return {
      count: count64,
      size: Number(record.getBigUint64(40, true)),
      offset: Number(record.getBigUint64(48, true)),
    };
  }
  throw bad(source, "a zip archive", "no end of a central directory");
}

function readEntry(
  source: ByteSource,
  view: DataView,
  at: number,
  [nameLength, extraLength]: [number, number, number],
): ZipEntry {
  const flags = view.getUint16(at + 8, true);
  const method = view.getUint16(at + 10, true);
  const crc = view.getUint32(at + 16, true);
  const sizes = {
    size: view.getUint32(at + 24, true),
    compressed: view.getUint32(at + 20, true),
    header: view.getUint32(at + 42, true),
  };
  const nameBytes = new Uint8Array(view.buffer, view.byteOffset + at + 46, nameLength);
  const name = new TextDecoder().decode(nameBytes);
  widen(view, at + 46 + nameLength, extraLength, sizes);
  const { size, compressed, header } = sizes;
  if ((flags & 1) !== 0 || (method !== 0 && method !== 8))
    throw bad(source, `${name} stored or deflated, not encrypted`, `method ${method}`);
  const inside = Number.isSafeInteger(header + compressed) && header + 30 + compressed <= source.size;
  if (!inside || (method === 0 ? size !== compressed : size > compressed * MAX_RATIO))
    throw bad(source, `${name} with possible sizes`, `${size} bytes from ${compressed} at ${header}`);
  return { name, size, compressed, method, crc, header };
}

// The zip64 extra field holds, in this order, those values that do not fit in 32 bits.
function widen(
  view: DataView,
  start: number,
  length: number,
  sizes: { size: number; compressed: number; header: number },
): void {
  for (let at = start; at + 4 <= start + length; at += 4 + view.getUint16(at + 2, true)) {
    if (view.getUint16(at, true) !== 1) continue;
    const end = Math.min(at + 4 + view.getUint16(at + 2, true), start + length);
    let field = at + 4;
    for (const key of ["size", "compressed", "header"] as const) {
      if (sizes[key] !== 0xffffffff || field + 8 > end) continue;
      sizes[key] = Number(view.getBigUint64(field, true));
      field += 8;
    }
    return;
  }
}

function bad(source: ByteSource, expected: string, got: string): DataError {
  return new DataError("ERR_ZIP", `${source.name}: expected ${expected}, got ${got}`, {
    details: { file: source.name, expected, got },
    remedies: ["Get the file again: it is damaged, cut short, or not a zip archive."],
  });
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
