// SPDX-License-Identifier: Apache-2.0
// `doctor`: what this machine has, what it lacks, and what to do about it.

import type { Command } from "commander";
import { EXIT, ExitError } from "../exit-codes.ts";
import { printJson, printLine, styled } from "../terminal.ts";

interface Flags {
  json?: boolean;
}

export function register(program: Command): void {
  program
    .command("doctor")
    .description("Check this machine: Node, libtorch, addon, compiler, devices; name what is missing.")
    .option("--json", "print the checks as JSON")
    .addHelpText(
      "after",
      `
Examples:
  $ chatspace-steer doctor
  $ chatspace-steer doctor --json

Exits 3 when something that is required is missing.`,
    )
    .action(async (flags: Flags) => {
      const [{ runDoctor }, { checkDefaultModel }] = await Promise.all([
        import("../../native/doctor.ts"),
        import("../model-check.ts"),
      ]);
      const checks = [...(await runDoctor()), checkDefaultModel()];
      const missing = checks.filter((check) => !check.ok && check.required);
      if (flags.json) printJson({ ok: missing.length === 0, checks });
      else {
        const widest = Math.max(...checks.map((check) => check.name.length));
        for (const { name, ok, required, found, remedy } of checks) {
          const mark = ok
            ? styled(process.stdout, "green", "ok  ")
            : required
              ? styled(process.stdout, "red", "FAIL")
              : styled(process.stdout, "yellow", "note");
          const [first = "", ...rest] = found.split("\n");
          printLine(`${mark} ${name.padEnd(widest)}  ${first}`);
          for (const line of rest) printLine(`${" ".repeat(widest + 7)}${line}`);
          if (remedy !== null) printLine(`${" ".repeat(widest + 7)}-> ${remedy}`);
        }
      }
      if (missing.length > 0) throw new ExitError(EXIT.environment);
    });
}
