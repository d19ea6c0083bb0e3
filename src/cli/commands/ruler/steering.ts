// SPDX-License-Identifier: Apache-2.0
// What a RULER run is steered with: one vector by flags, or a whole program from a file.

import { readFile } from "node:fs/promises";
import type { SteeringOperation } from "../../../steering/program.ts";
import { UsageError } from "../../exit-codes.ts";
import { type SteeringFlags, steeringOf } from "../../options.ts";

export interface ProgramFlags extends SteeringFlags {
  steering?: string;
}

export const STEERING_HELP = "a program from a file in place of --vector: a JSON list, or a chatspace .pt";

/** The program of the flags; empty without any. */
export async function programOf(flags: ProgramFlags): Promise<SteeringOperation[]> {
  const { steering: file } = flags;
  if (file === undefined) return steeringOf(flags);
  if (flags.vector !== undefined) throw new UsageError("--steering and --vector: expected one of them");
  if (file.endsWith(".pt")) {
    const { loadSteeringProgram } = await import("../../../steering/program-files.ts");
    return loadSteeringProgram(file);
  }
  const { resolveVector } = await import("../../../steering/vector-names.ts");
  const bad = (why: string) =>
    new UsageError(`--steering ${file}: expected a JSON list of operations, ${why}`);
  let list: unknown;
  try {
    list = JSON.parse(await readFile(file, "utf8"));
  } catch (error) {
    throw bad((error as Error).message);
  }
  if (!Array.isArray(list)) throw bad("got something else");
  return Promise.all(
    list.map(async (operation: SteeringOperation & { vector: unknown }) => {
      if (typeof operation !== "object" || operation === null) throw bad("got an entry that is none");
      // A vector is written as a name, a file or its numbers.
      if (typeof operation.vector !== "string") return operation;
      return { ...operation, vector: await resolveVector(operation.vector) };
    }),
  );
}
