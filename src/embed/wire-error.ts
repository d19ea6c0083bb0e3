// SPDX-License-Identifier: Apache-2.0
// How errors cross the borders of threads, processes and machines without losing class and code.

import * as errors from "../errors.ts";

/** An error as plain data. */
export interface WireError {
  name: string;
  message: string;
  code: string | null;
  details: Record<string, unknown>;
  stack: string;
}

export function toWire(error: unknown): WireError {
  const e = error as Partial<errors.SteerError> & Error;
  return {
    name: typeof e?.name === "string" ? e.name : "Error",
    message: typeof e?.message === "string" ? e.message : String(error),
    code: typeof e?.code === "string" ? e.code : null,
    details: e instanceof errors.SteerError ? e.details : {},
    stack: typeof e?.stack === "string" ? e.stack : "",
  };
}

const CLASSES = {
  EnvironmentError: errors.EnvironmentError,
  ModelError: errors.ModelError,
  DeviceError: errors.DeviceError,
  DataError: errors.DataError,
  SteeringError: errors.SteeringError,
  DisposedError: errors.DisposedError,
  ServiceError: errors.ServiceError,
} as const;

/** The error as its own class again, with the stage named in its details. */
export function fromWire(wire: WireError, stage: string): Error {
  const details = { ...wire.details, stage };
  const known = CLASSES[wire.name as keyof typeof CLASSES];
  if (known !== undefined && wire.code !== null) return new known(wire.code, wire.message, { details });
  return new errors.SteerError("ERR_STAGE_FAILED", `The ${stage} failed: ${wire.message}`, {
    details: { ...details, name: wire.name, systemCode: wire.code, stack: wire.stack },
    remedies: [
      "rerun with --resume: shards already in the journal are kept",
      "report it with the stack if it comes back",
    ],
  });
}
