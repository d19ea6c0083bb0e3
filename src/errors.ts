// SPDX-License-Identifier: Apache-2.0
// The errors a caller can meet. Each has a stable code, a heading in docs/errors.md and a test that
// provokes it. Misuse of an argument is a TypeError or RangeError with a code (see misuse()).

/** What was expected, what came, where; plus whatever else helps. JSON-safe. */
export type ErrorDetails = Record<string, unknown>;

export interface SteerErrorOptions {
  details?: ErrorDetails;
  /** What the reader can do about it; printed as a list. */
  remedies?: readonly string[];
  cause?: unknown;
}

/** Base of everything this package throws on purpose, argument misuse apart. */
export class SteerError extends Error {
  override readonly name: string = "SteerError";
  readonly code: string;
  readonly details: ErrorDetails;
  readonly remedies: readonly string[];

  constructor(code: string, message: string, options: SteerErrorOptions = {}) {
    const remedies = options.remedies ?? [];
    const list = remedies.length > 0 ? `\nWhat may help:\n${remedies.map((r) => `  - ${r}`).join("\n")}` : "";
    super(message + list, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.details = options.details ?? {};
    this.remedies = remedies;
  }
}

/** The addon, libtorch or another part of the installation is missing or does not fit. CLI exit code 3. */
export class EnvironmentError extends SteerError {
  override readonly name = "EnvironmentError";
}

/** A model file or archive cannot be used. CLI exit code 4. */
export class ModelError extends SteerError {
  override readonly name = "ModelError";
}

/** A device is absent or out of memory. CLI exit code 3. */
export class DeviceError extends SteerError {
  override readonly name = "DeviceError";
}

/** Input data (a vector file, a data set, a checkpoint) cannot be used. CLI exit code 4. */
export class DataError extends SteerError {
  override readonly name = "DataError";
}

/** A steering program, site or vector does not fit the model. CLI exit code 2. */
export class SteeringError extends SteerError {
  override readonly name = "SteeringError";
}

/** The object was disposed. */
export class DisposedError extends SteerError {
  override readonly name = "DisposedError";
}

/** A remote service answered with an error or not at all. CLI exit code 1. */
export class ServiceError extends SteerError {
  override readonly name = "ServiceError";
}

type MisuseClass = typeof TypeError | typeof RangeError;

/** Builds a TypeError or RangeError that says what was expected, what came and where. */
export function misuse(
  kind: MisuseClass,
  code: string,
  where: string,
  expected: string,
  got: unknown,
): TypeError & { code: string; details: ErrorDetails } {
  const error = new kind(`${where}: expected ${expected}, got ${describe(got)}`);
  return Object.assign(error, { code, details: { where, expected, got: describe(got) } });
}

/** A value in a few words, for messages. */
export function describe(value: unknown): string {
  if (value === null) return "null";
  if (typeof value === "string") return value.length > 80 ? `"${value.slice(0, 77)}..."` : `"${value}"`;
  if (typeof value === "number" || typeof value === "boolean" || typeof value === "undefined")
    return String(value);
  if (typeof value === "bigint") return `${value}n`;
  if (Array.isArray(value)) return `an array of ${value.length}`;
  if (ArrayBuffer.isView(value) && "length" in value)
    return `${value.constructor.name}(${(value as { length: number }).length})`;
  if (typeof value === "function") return "a function";
  return `an object of class ${(value as object).constructor?.name ?? "null"}`;
}
