// SPDX-License-Identifier: Apache-2.0
// Thrift's compact protocol, as much of it as Parquet's footer and page headers need.

export const ThriftType = {
  true: 1,
  false: 2,
  i16: 4,
  i32: 5,
  i64: 6,
  binary: 8,
  list: 9,
  struct: 12,
} as const;

/** Writes one struct after another into a growing buffer. */
export class ThriftWriter {
  #buffer = Buffer.alloc(1024);
  #length = 0;
  #lastField: number[] = [0];

  #reserve(bytes: number): void {
    if (this.#length + bytes <= this.#buffer.length) return;
    const grown = Buffer.alloc(Math.max(this.#buffer.length * 2, this.#length + bytes));
    this.#buffer.copy(grown, 0, 0, this.#length);
    this.#buffer = grown;
  }

  #byte(value: number): void {
    this.#reserve(1);
    this.#buffer[this.#length++] = value;
  }

  #varint(value: bigint): void {
    let rest = value;
    while (rest >= 0x80n) {
      this.#byte(Number(rest & 0x7fn) | 0x80);
      rest >>= 7n;
    }
    this.#byte(Number(rest));
  }

  #zigzag(value: bigint): void {
    this.#varint(value >= 0n ? value << 1n : (-value << 1n) - 1n);
  }

  #field(id: number, type: number): void {
    const last = this.#lastField.at(-1) as number;
    const delta = id - last;
    if (delta > 0 && delta < 16) this.#byte((delta << 4) | type);
    else {
      this.#byte(type);
      this.#zigzag(BigInt(id));
    }
    this.#lastField[this.#lastField.length - 1] = id;
  }

  i16(id: number, value: number): this {
    this.#field(id, ThriftType.i16);
    this.#zigzag(BigInt(value));
    return this;
  }

  i32(id: number, value: number): this {
    this.#field(id, ThriftType.i32);
    this.#zigzag(BigInt(value));
    return this;
  }

  i64(id: number, value: number | bigint): this {
    this.#field(id, ThriftType.i64);
    this.#zigzag(BigInt(value));
    return this;
  }

  bool(id: number, { value }: { value: boolean }): this {
    this.#field(id, value ? ThriftType.true : ThriftType.false);
    return this;
  }

  binary(id: number, value: string | Uint8Array): this {
    this.#field(id, ThriftType.binary);
    this.#bytes(value);
    return this;
  }

  #bytes(value: string | Uint8Array): void {
    const bytes = typeof value === "string" ? Buffer.from(value) : value;
    this.#varint(BigInt(bytes.byteLength));
    this.#reserve(bytes.byteLength);
    this.#buffer.set(bytes, this.#length);
    this.#length += bytes.byteLength;
  }

  struct(id: number, write: (writer: this) => void): this {
    this.#field(id, ThriftType.struct);
    return this.body(write);
  }

  /** A struct without a field header: the top level, or an element of a list. */
  body(write: (writer: this) => void): this {
    this.#lastField.push(0);
    write(this);
    this.#byte(0);
    this.#lastField.pop();
    return this;
  }

  #listHeader(id: number, type: number, count: number): void {
    this.#field(id, ThriftType.list);
    if (count < 15) this.#byte((count << 4) | type);
    else {
      this.#byte(0xf0 | type);
      this.#varint(BigInt(count));
    }
  }

  structs<T>(id: number, items: readonly T[], write: (writer: this, item: T) => void): this {
    this.#listHeader(id, ThriftType.struct, items.length);
    for (const item of items) this.body(() => write(this, item));
    return this;
  }

  i32s(id: number, items: readonly number[]): this {
    this.#listHeader(id, ThriftType.i32, items.length);
    for (const item of items) this.#zigzag(BigInt(item));
    return this;
  }

  strings(id: number, items: readonly string[]): this {
    this.#listHeader(id, ThriftType.binary, items.length);
    for (const item of items) this.#bytes(item);
    return this;
  }

  finish(): Uint8Array {
    return Uint8Array.prototype.slice.call(this.#buffer, 0, this.#length);
  }
}
