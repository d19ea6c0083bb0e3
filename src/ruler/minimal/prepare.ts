// SPDX-License-Identifier: Apache-2.0
// Minimal tasks to files, laid out as the thirteen are, so that the same run and score commands take them.

import { join } from "node:path";
import { statOrNull, writeFileAtomic } from "../../data/files.ts";
import { DataError } from "../../errors.ts";
import { pythonJson } from "../text/python-text.ts";
import { MINIMAL_KINDS, type MinimalOptions, minimalRows } from "./generate.ts";

export interface PrepareMinimalOptions extends MinimalOptions {
  /** `all` or names joined with commas. */
  readonly task: string;
  readonly output: string;
  readonly overwrite?: boolean;
}

/** Writes DIR/minimal_NAME/validation.jsonl and gives the files. */
export async function prepareMinimal(
  options: PrepareMinimalOptions,
): Promise<Array<{ task: string; file: string; rows: number }>> {
  const { task, output, overwrite, ...settings } = options;
  const kinds =
    task === "all" ? MINIMAL_KINDS : task.split(",").map((t) => t.trim().replace(/^minimal_/, ""));
  const made: Array<{ task: string; file: string; rows: number }> = [];
  for (const kind of kinds) {
    const rows = minimalRows(kind, settings);
    const file = join(output, `minimal_${kind}`, "validation.jsonl");
    if (!overwrite && (await statOrNull(file)) !== null)
      throw new DataError("ERR_RULER_OUTPUT_EXISTS", `${file} is there already`, {
        details: { file },
        remedies: ["--overwrite writes it anew", "give another --output"],
      });
    await writeFileAtomic(
      file,
      rows.map((row) => `${pythonJson(row)}\n`),
    );
    made.push({ task: `minimal_${kind}`, file, rows: rows.length });
  }
  return made;
}
