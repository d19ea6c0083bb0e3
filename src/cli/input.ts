// SPDX-License-Identifier: Apache-2.0
// Text from arguments, files and pipes.

import { readFile } from "node:fs/promises";
import { text } from "node:stream/consumers";
import { DataError } from "../errors.ts";
import { UsageError } from "./exit-codes.ts";

/** The argument, or what is piped in; a usage error when there is neither. */
export async function argumentOrStdin(argument: string | undefined, what: string): Promise<string> {
  if (argument !== undefined && argument !== "-") return argument;
  if (process.stdin.isTTY && argument !== "-")
    throw new UsageError(`expected ${what} as an argument or on standard input, got neither`);
  const piped = (await text(process.stdin)).replace(/\r?\n$/, "");
  if (piped === "") throw new UsageError(`expected ${what} as an argument or on standard input, got nothing`);
  return piped;
}

/** A whole file, or standard input for "-". */
export async function readInput(path: string): Promise<string> {
  if (path === "-") return text(process.stdin);
  try {
    return await readFile(path, "utf8");
  } catch (cause) {
    throw new DataError("ERR_FILE_UNREADABLE", `cannot read ${path}: ${(cause as Error).message}`, {
      cause,
      details: { file: path },
      remedies: ["Check the path and its permissions."],
    });
  }
}
