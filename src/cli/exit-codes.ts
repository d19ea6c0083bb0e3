// SPDX-License-Identifier: Apache-2.0
// What the process answers with: 0 ok, 1 failed, 2 usage, 3 environment, 4 data, 130 interrupted.

import {
  DataError,
  DeviceError,
  EnvironmentError,
  ModelError,
  ServiceError,
  SteerError,
  SteeringError,
} from "../errors.ts";

export const EXIT = { ok: 0, failed: 1, usage: 2, environment: 3, data: 4, interrupted: 130 } as const;

/** Thrown where a command is to end with a code after it has said why itself. */
export class ExitError extends Error {
  override readonly name = "ExitError";
  readonly exitCode: number;

  constructor(exitCode: number, message = "") {
    super(message);
    this.exitCode = exitCode;
  }
}

/** A mistake on the command line that commander cannot see. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

export function exitCodeOf(error: unknown): number {
  if (error instanceof ExitError) return error.exitCode;
  if (error instanceof UsageError || error instanceof SteeringError) return EXIT.usage;
  if (error instanceof EnvironmentError || error instanceof DeviceError) return EXIT.environment;
  if (error instanceof ModelError || error instanceof DataError) return EXIT.data;
  if (error instanceof ServiceError || error instanceof SteerError) return EXIT.failed;
  const misuse = (error instanceof TypeError || error instanceof RangeError) && "code" in error;
  return misuse && String(error.code).startsWith("ERR_") ? EXIT.usage : EXIT.failed;
}
