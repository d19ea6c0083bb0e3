// SPDX-License-Identifier: Apache-2.0
// Typed access to a model's config.json: what is absent or of the wrong kind is named with its file.

import { describe, ModelError } from "../../errors.ts";

export class ConfigReader {
  /** Where the values come from, for messages. */
  readonly file: string;
  private readonly values: Readonly<Record<string, unknown>>;

  constructor(file: string, values: Readonly<Record<string, unknown>>) {
    this.file = file;
    this.values = values;
  }

  /** True when the key is there and not null. */
  has(key: string): boolean {
    return this.values[key] !== undefined && this.values[key] !== null;
  }

  /** A positive integer; `fallback` when absent. Throws ERR_CONFIG. */
  int(key: string, fallback?: number): number {
    const value = this.present(key, fallback, "a positive integer");
    if (typeof value === "number" && Number.isSafeInteger(value) && value > 0) return value;
    throw this.bad(key, "a positive integer", value);
  }

  /** A finite number; `fallback` when absent. Throws ERR_CONFIG. */
  float(key: string, fallback?: number): number {
    const value = this.present(key, fallback, "a number");
    if (typeof value === "number" && Number.isFinite(value)) return value;
    throw this.bad(key, "a number", value);
  }

  bool(key: string, fallback?: boolean): boolean {
    const value = this.present(key, fallback, "true or false");
    if (typeof value === "boolean") return value;
    throw this.bad(key, "true or false", value);
  }

  string(key: string, fallback?: string): string {
    const value = this.present(key, fallback, "a string");
    if (typeof value === "string") return value;
    throw this.bad(key, "a string", value);
  }

  /** A nested object as a reader of its own, or null when absent. */
  object(key: string): ConfigReader | null {
    const value = this.values[key];
    if (value === undefined || value === null) return null;
    if (typeof value === "object" && !Array.isArray(value))
      return new ConfigReader(`${this.file} ${key}`, value as Record<string, unknown>);
    throw this.bad(key, "an object", value);
  }

  /** A list, or null when absent. */
  list(key: string): readonly unknown[] | null {
    const value = this.values[key];
    if (value === undefined || value === null) return null;
    if (Array.isArray(value)) return value;
    throw this.bad(key, "a list", value);
  }

  /** A list of finite numbers of the length given. Throws ERR_CONFIG. */
  floats(key: string, length: number): number[] {
    const value = this.list(key) ?? [];
    if (value.length === length && value.every((item) => typeof item === "number" && Number.isFinite(item)))
      return [...(value as number[])];
    throw this.bad(key, `a list of ${length} numbers`, value);
  }

  /** A value as it stands, for what has several forms. */
  raw(key: string): unknown {
    return this.values[key];
  }

  bad(key: string, expected: string, got: unknown): ModelError {
    return new ModelError("ERR_CONFIG", `${this.file}: ${key}: expected ${expected}, got ${describe(got)}`, {
      details: { file: this.file, key, expected, got: describe(got) },
      remedies: ["Check that config.json belongs to these weights and is complete."],
    });
  }

  private present(key: string, fallback: unknown, expected: string): unknown {
    const value = this.values[key] ?? fallback;
    if (value === undefined) throw this.bad(key, expected, undefined);
    return value;
  }
}
