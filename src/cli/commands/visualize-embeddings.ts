// SPDX-License-Identifier: Apache-2.0
// visualize-embeddings: the points of reduce-embeddings as an interactive page, served or exported.

import { basename } from "node:path";
import type { Command } from "commander";
import { interruptible } from "../interrupt.ts";
import { naturalNumber } from "../options.ts";
import { note, printLine } from "../terminal.ts";

interface Flags {
  input: string;
  host: string;
  port: number;
  export?: string;
}

export function register(program: Command): void {
  program
    .command("visualize-embeddings")
    .description("look at reduced embeddings: a page with hover, search, colours and a lasso")
    .requiredOption("--input <file.parquet>", "what reduce-embeddings wrote")
    .option("--host <address>", "address to listen on", "127.0.0.1")
    .option("--port <n>", "port; 0 takes a free one", naturalNumber, 8050)
    .option("--export <file.html>", "write one self-contained file instead of serving")
    .option("--debug", "accepted for chatspace's users")
    .action(async (flags: Flags) => {
      const { readPoints } = await import("../../embed/visualize/points.ts");
      const points = await readPoints(flags.input);
      const title = basename(flags.input, ".parquet");
      if (flags.export !== undefined) {
        const { visualPage } = await import("../../embed/visualize/page.ts");
        const { writeFileAtomic } = await import("../../data/files.ts");
        await writeFileAtomic(flags.export, [visualPage(points, { title, served: false })]);
        printLine(flags.export);
        return;
      }
      const { serveVisual } = await import("../../embed/visualize/serve.ts");
      const server = await serveVisual(points, { title, host: flags.host, port: flags.port });
      printLine(server.url);
      note(`${points.rows} points; Ctrl-C ends`);
      await interruptible(
        (signal) =>
          new Promise<void>((resolve) => {
            signal.addEventListener("abort", () => resolve(), { once: true });
          }),
      );
      await server.close();
    });
}
