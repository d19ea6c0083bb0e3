// SPDX-License-Identifier: Apache-2.0
// The part of Python's pickle that torch.save writes for tensors in plain containers, read as data:
// a stack machine whose only calls are those a table lists. Nothing is imported, nothing is executed.
// Opcodes: Lib/pickletools.py of CPython.

import { DataError } from "../errors.ts";

/** A name the pickle refers to, "torch._utils._rebuild_tensor_v2". */
export class PickleGlobal {
  readonly name: string;

  constructor(name: string) {
    this.name = name;
  }
}

export interface PickleHost {
  /** For messages. */
  readonly name: string;
  /** Result of calling a global; throws for what is not allowed. */
  call(global: PickleGlobal, args: readonly unknown[]): unknown;
  /** What a persistent id stands for. */
  persistent(id: unknown): unknown;
}

const MARK = Symbol("mark");
const MAX_STACK = 10_000_000;

/** Runs a pickle. Dictionaries become Map, lists and tuples arrays, None null. Throws ERR_TORCH_SAVE. */
export function readPickle(bytes: Uint8Array, host: PickleHost): unknown {
  return new Machine(bytes, host).run();
}

class Machine {
  private readonly bytes: Uint8Array;
  private readonly view: DataView;
  private readonly host: PickleHost;
  private readonly stack: unknown[] = [];
  private readonly memo = new Map<number, unknown>();
  private at = 0;

  constructor(bytes: Uint8Array, host: PickleHost) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.host = host;
  }

  run(): unknown {
    for (;;) {
      const opcode = this.u8();
      // STOP
      if (opcode === 0x2e) {
        const value = this.pop();
        if (this.stack.length > 0) throw this.bad("one value at the end", `${this.stack.length + 1}`);
        return value;
      }
      this.step(opcode);
      if (this.stack.length > MAX_STACK) throw this.bad("a shallow stack", "more than ten million values");
    }
  }

  private step(opcode: number): void {
    switch (String.fromCharCode(opcode)) {
      case "\x80": {
        const protocol = this.u8();
        if (protocol > 5) throw this.bad("pickle protocol 0 to 5", `${protocol}`);
        return;
      }
      case "\x95":
        // FRAME: a length that only matters to streams.
        this.take(8);
        return;
      case "(":
        this.stack.push(MARK);
        return;
      case "N":
        this.stack.push(null);
        return;
      case "\x88":
        this.stack.push(true);
        return;
      case "\x89":
        this.stack.push(false);
        return;
      case "K":
        this.stack.push(this.u8());
        return;
      case "M":
        this.stack.push(this.viewOf(2).getUint16(0, true));
        return;
      case "J":
        this.stack.push(this.viewOf(4).getInt32(0, true));
        return;
      case "\x8a":
        this.stack.push(this.long(this.u8()));
        return;
      case "G":
        this.stack.push(this.viewOf(8).getFloat64(0, false));
        return;
      case "X":
        this.stack.push(this.text(this.u32()));
        return;
      case "\x8c":
        this.stack.push(this.text(this.u8()));
        return;
      case "}":
        this.stack.push(new Map());
        return;
      case "]":
      case ")":
        this.stack.push([]);
        return;
      default:
        this.container(opcode);
    }
  }

  private container(opcode: number): void {
    switch (String.fromCharCode(opcode)) {
      case "t":
      case "l":
        this.stack.push(this.popToMark());
        return;
      case "\x85":
        this.stack.push([this.pop()]);
        return;
      case "\x86":
      case "\x87": {
        const items = [this.pop(), this.pop()];
        if (opcode === 0x87) items.push(this.pop());
        this.stack.push(items.reverse());
        return;
      }
      case "d":
        this.stack.push(this.pairs(new Map(), this.popToMark()));
        return;
      case "s": {
        const value = this.pop();
        const key = this.pop();
        this.pairs(this.top(Map), [key, value]);
        return;
      }
      case "u": {
        const items = this.popToMark();
        this.pairs(this.top(Map), items);
        return;
      }
      case "a": {
        const value = this.pop();
        this.top(Array).push(value);
        return;
      }
      case "e": {
        const items = this.popToMark();
        const list = this.top(Array);
        for (const item of items) list.push(item);
        return;
      }
      default:
        this.reference(opcode);
    }
  }

  private reference(opcode: number): void {
    switch (String.fromCharCode(opcode)) {
      case "q":
        this.memo.set(this.u8(), this.peek());
        return;
      case "r":
        this.memo.set(this.u32(), this.peek());
        return;
      case "\x94":
        this.memo.set(this.memo.size, this.peek());
        return;
      case "h":
        this.stack.push(this.recall(this.u8()));
        return;
      case "j":
        this.stack.push(this.recall(this.u32()));
        return;
      case "c": {
        const module = this.line();
        this.stack.push(new PickleGlobal(`${module}.${this.line()}`));
        return;
      }
      case "\x93": {
        const name = this.pop();
        const module = this.pop();
        if (typeof module !== "string" || typeof name !== "string")
          throw this.bad("two strings for a global", "something else");
        this.stack.push(new PickleGlobal(`${module}.${name}`));
        return;
      }
      case "Q":
        this.stack.push(this.host.persistent(this.pop()));
        return;
      case "R": {
        const args = this.pop();
        const global = this.pop();
        if (!(global instanceof PickleGlobal) || !Array.isArray(args))
          throw this.bad("a call of a global with a tuple", "something else");
        this.stack.push(this.host.call(global, args));
        return;
      }
      case "b": {
        // BUILD: an OrderedDict may carry a dictionary of attributes (a state_dict's _metadata), which is no data.
        const state = this.pop();
        if (!(state instanceof Map) || !(this.peek() instanceof Map))
          throw this.bad("attributes of a dictionary alone", "the state of another object");
        return;
      }
      default:
        throw this.bad(
          "opcodes of plain containers",
          `opcode 0x${opcode.toString(16)} at byte ${this.at - 1}`,
        );
    }
  }

  private pairs(map: Map<unknown, unknown>, items: readonly unknown[]): Map<unknown, unknown> {
    if (items.length % 2 !== 0) throw this.bad("keys and values in pairs", `${items.length} items`);
    for (let i = 0; i < items.length; i += 2) {
      const key = items[i];
      if (typeof key !== "string" && typeof key !== "number" && typeof key !== "boolean" && key !== null)
        throw this.bad("dictionary keys that are strings or numbers", typeof key);
      map.set(key, items[i + 1]);
    }
    return map;
  }

  private pop(): unknown {
    if (this.stack.length === 0) throw this.bad("a value on the stack", "none");
    const value = this.stack.pop();
    if (value === MARK) throw this.bad("a value on the stack", "a mark");
    return value;
  }

  private peek(): unknown {
    const value = this.stack.at(-1);
    if (value === undefined || value === MARK) throw this.bad("a value on the stack", "none");
    return value;
  }

  private top<T>(kind: new () => T): T {
    const value = this.peek();
    if (value instanceof kind) return value;
    throw this.bad(`a ${kind.name} on the stack`, typeof value);
  }

  private popToMark(): unknown[] {
    const at = this.stack.lastIndexOf(MARK);
    if (at < 0) throw this.bad("a mark on the stack", "none");
    const items = this.stack.splice(at + 1);
    this.stack.pop();
    return items;
  }

  private recall(index: number): unknown {
    if (!this.memo.has(index)) throw this.bad(`memo entry ${index}`, "none");
    return this.memo.get(index);
  }

  private take(length: number): Uint8Array {
    if (length > this.bytes.length - this.at)
      throw this.bad(`${length} more bytes`, `${this.bytes.length - this.at}`);
    this.at += length;
    return this.bytes.subarray(this.at - length, this.at);
  }

  private viewOf(length: number): DataView {
    this.take(length);
    return new DataView(this.view.buffer, this.view.byteOffset + this.at - length, length);
  }

  private u8(): number {
    return this.take(1)[0]!;
  }

  private u32(): number {
    return this.viewOf(4).getUint32(0, true);
  }

  private text(length: number): string {
    return new TextDecoder("utf-8").decode(this.take(length));
  }

  private line(): string {
    const end = this.bytes.indexOf(0x0a, this.at);
    if (end < 0 || end - this.at > 1000) throw this.bad("a short line", "none");
    const text = this.text(end - this.at);
    this.at += 1;
    return text;
  }

  // Little-endian two's complement; a number when it is exact, else a bigint.
  private long(length: number): number | bigint {
    let value = 0n;
    const bytes = this.take(length);
    for (let i = length - 1; i >= 0; i--) value = (value << 8n) | BigInt(bytes[i]!);
    if (length > 0 && bytes[length - 1]! >= 0x80) value -= 1n << BigInt(8 * length);
    const number = Number(value);
    return Number.isSafeInteger(number) ? number : value;
  }

  private bad(expected: string, got: string): DataError {
    return new DataError("ERR_TORCH_SAVE", `${this.host.name}: pickle: expected ${expected}, got ${got}`, {
      details: { file: this.host.name, expected, got },
      remedies: ["Save tensors, numbers and strings in dictionaries and lists alone, with torch.save."],
    });
  }
}
