// SPDX-License-Identifier: Apache-2.0
// Reads zip archives (wheels, PyTorch's archives) from disk without holding them in memory: the central
// directory first, then single members as streams. zip64, stored and deflated members; CRC and sizes
// are checked, so a truncated or damaged archive is refused.
import { createHash } from "node:crypto";
import fs from "node:fs";
import path from "node:path";
import { Transform } from "node:stream";
import { pipeline } from "node:stream/promises";
import zlib from "node:zlib";

const END = 0x06054b50;
const END64 = 0x06064b50;
const CENTRAL = 0x02014b50;
const LOCAL = 0x04034b50;
/** Members up to this size are inflated in one go: a wheel has ten thousand headers of a few KiB. */
const SMALL = 4 * 2 ** 20;

export class Zip {
  #handle;
  #size;
  file;
  /** name -> { name, method, crc, packed, size, offset }, directories left out. */
  entries = new Map();

  constructor(file) {
    this.file = file;
    this.#handle = fs.openSync(file, "r");
    this.#size = fs.fstatSync(this.#handle).size;
    try {
      this.#readDirectory();
    } catch (error) {
      this.close();
      throw error;
    }
  }

  close() {
    if (this.#handle !== null) fs.closeSync(this.#handle);
    this.#handle = null;
  }

  /** The bytes of a small member. */
  read(name) {
    const entry = this.#entry(name);
    const packed = this.#readAt(this.#dataOffset(entry), entry.packed);
    const bytes =
      entry.method === 0 ? packed : zlib.inflateRawSync(packed, { maxOutputLength: entry.size + 1 });
    this.#check(entry, bytes.length, zlib.crc32(bytes));
    return bytes;
  }

  /** Writes a member to `target`; gives its size and sha256 (hex). */
  async extract(name, target) {
    const entry = this.#entry(name);
    fs.mkdirSync(path.dirname(target), { recursive: true });
    if (entry.size <= SMALL) {
      const bytes = this.read(name);
      fs.writeFileSync(target, bytes);
      return { bytes: bytes.length, sha256: createHash("sha256").update(bytes).digest("hex") };
    }
    const start = this.#dataOffset(entry);
    const hash = createHash("sha256");
    let size = 0;
    let crc = 0;
    const measure = new Transform({
      transform(chunk, _encoding, done) {
        hash.update(chunk);
        crc = zlib.crc32(chunk, crc);
        size += chunk.length;
        done(null, chunk);
      },
    });
    const source = fs.createReadStream(this.file, {
      start,
      end: start + entry.packed - 1,
      highWaterMark: 2 ** 20,
    });
    const inflate = entry.method === 0 ? [] : [zlib.createInflateRaw({ chunkSize: 2 ** 20 })];
    await pipeline([source, ...inflate, measure, fs.createWriteStream(target)]);
    this.#check(entry, size, crc);
    return { bytes: size, sha256: hash.digest("hex") };
  }

  #entry(name) {
    const entry = this.entries.get(name);
    if (!entry) throw new Error(`${this.#where()} has no member ${name}`);
    if (entry.method !== 0 && entry.method !== 8)
      throw new Error(`${this.#where()}: ${name} is packed by method ${entry.method}, expected deflate`);
    return entry;
  }

  #check(entry, size, crc) {
    if (size !== entry.size || crc >>> 0 !== entry.crc)
      throw new Error(
        `${this.#where()} is damaged: ${entry.name} has ${size} bytes and crc ${(crc >>> 0).toString(16)}, ` +
          `expected ${entry.size} and ${entry.crc.toString(16)}`,
      );
  }

  #where() {
    return path.basename(this.file);
  }

  #readAt(offset, length) {
    const bytes = Buffer.allocUnsafe(length);
    let done = 0;
    while (done < length) {
      const got = fs.readSync(this.#handle, bytes, done, length - done, offset + done);
      if (got === 0) throw new Error(`${this.#where()} is truncated: it ends at byte ${this.#size}`);
      done += got;
    }
    return bytes;
  }

  /** The local header repeats the name and may carry other extra fields than the directory's. */
  #dataOffset(entry) {
    const header = this.#readAt(entry.offset, 30);
    if (header.readUInt32LE(0) !== LOCAL)
      throw new Error(`${this.#where()} is damaged at byte ${entry.offset}`);
    return entry.offset + 30 + header.readUInt16LE(26) + header.readUInt16LE(28);
  }

  #readDirectory() {
    const tailLength = Math.min(this.#size, 65_557);
    const tail = this.#readAt(this.#size - tailLength, tailLength);
    let at = tail.length - 22;
    while (at >= 0 && tail.readUInt32LE(at) !== END) at -= 1;
    if (at < 0)
      throw new Error(
        `${this.#where()} is truncated or no zip archive: it has no directory in its last bytes`,
      );
    let count = tail.readUInt16LE(at + 10);
    let length = tail.readUInt32LE(at + 12);
    let offset = tail.readUInt32LE(at + 16);
    if (count === 0xffff || length === 0xffffffff || offset === 0xffffffff) {
      const record = this.#readAt(Number(tail.readBigUInt64LE(at - 20 + 8)), 56);
      if (record.readUInt32LE(0) !== END64)
        throw new Error(`${this.#where()}: its zip64 directory is damaged`);
      count = Number(record.readBigUInt64LE(32));
      length = Number(record.readBigUInt64LE(40));
      offset = Number(record.readBigUInt64LE(48));
    }
    const directory = this.#readAt(offset, length);
    let position = 0;
    for (let index = 0; index < count; index += 1) {
      if (directory.readUInt32LE(position) !== CENTRAL)
        throw new Error(`${this.#where()}: its directory is damaged`);
      const nameLength = directory.readUInt16LE(position + 28);
      const extraLength = directory.readUInt16LE(position + 30);
      const extraAt = position + 46 + nameLength;
      const entry = {
        name: directory.toString("utf8", position + 46, extraAt),
        method: directory.readUInt16LE(position + 10),
        crc: directory.readUInt32LE(position + 16),
        packed: directory.readUInt32LE(position + 20),
        size: directory.readUInt32LE(position + 24),
        offset: directory.readUInt32LE(position + 42),
      };
      widen(entry, directory.subarray(extraAt, extraAt + extraLength));
      if (!entry.name.endsWith("/")) this.entries.set(entry.name, entry);
      position = extraAt + extraLength + directory.readUInt16LE(position + 32);
    }
  }
}

/** Takes 64-bit sizes from the zip64 extra field, which holds only those that do not fit 32 bits. */
function widen(entry, extra) {
  for (let at = 0; at + 4 <= extra.length; at += 4 + extra.readUInt16LE(at + 2)) {
    if (extra.readUInt16LE(at) !== 1) continue;
    let field = at + 4;
    for (const key of ["size", "packed", "offset"]) {
      if (entry[key] !== 0xffffffff) continue;
      entry[key] = Number(extra.readBigUInt64LE(field));
      field += 8;
    }
  }
}
