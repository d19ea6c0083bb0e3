// SPDX-License-Identifier: Apache-2.0
// `ruler data`: what may not ship with the package, fetched.

import type { Command } from "commander";
import { UsageError } from "../../exit-codes.ts";
import { interruptible } from "../../interrupt.ts";
import { collect, defined } from "../../options.ts";
import { note, printJson, printLine, table } from "../../terminal.ts";

interface DataFlags {
  output: string;
  only?: string;
  overwrite?: boolean;
  url?: string[];
  json?: boolean;
}

export function registerData(ruler: Command): void {
  ruler
    .command("data")
    .description("Fetch essays, question sets and the large word list from their public places.")
    .requiredOption("-o, --output <dir>", "folder to put them in")
    .option("--only <parts>", "essays, squad, hotpotqa, english_words (default: all four)")
    .option("--url <part=address>", "take a part from another address (repeatable)", collect)
    .option("--overwrite", "fetch again what is there")
    .option("--json", "print the files as JSON")
    .action((flags: DataFlags) =>
      interruptible(async (signal) => {
        const { fetchData, DATA_PARTS } = await import("../../../ruler/data/fetch.ts");
        const urls: Record<string, string[]> = {};
        for (const pair of flags.url ?? []) {
          const at = pair.indexOf("=");
          if (at < 1) throw new UsageError(`--url: expected PART=ADDRESS, got ${pair}`);
          const part = pair.slice(0, at);
          urls[part] = [...(urls[part] ?? []), pair.slice(at + 1)];
        }
        for (const part of Object.keys(urls))
          if (!(DATA_PARTS as readonly string[]).includes(part))
            throw new UsageError(`--url: expected one of ${DATA_PARTS.join(", ")}, got ${part}`);
        let told = "";
        const parts = await fetchData({
          output: flags.output,
          signal,
          urls,
          ...defined({ only: flags.only?.split(","), overwrite: flags.overwrite }),
          onProgress(part, bytes) {
            const line = `${part} ${Math.floor(bytes / 1_000_000)} MB`;
            if (line !== told) note(line);
            told = line;
          },
        });
        if (flags.json) return printJson(parts);
        printLine(table(parts.map((p) => [p.part, p.state, p.file, `${p.bytes} bytes`, p.licence])));
      }),
    );
}
