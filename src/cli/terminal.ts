// SPDX-License-Identifier: Apache-2.0
// What the commands say and where: data on stdout, everything else on stderr; colours on terminals alone.

import { SteerError } from "../errors.ts";
import type { ProgressEvent } from "../model/progress.ts";

type Style = "bold" | "dim" | "red" | "green" | "yellow" | "cyan";
const CODES: Record<Style, [number, number]> = {
  bold: [1, 22],
  dim: [2, 22],
  red: [31, 39],
  green: [32, 39],
  yellow: [33, 39],
  cyan: [36, 39],
};

/** Whether colours go to a stream: a terminal, unless NO_COLOR is set (no-color.org). */
export function coloursOn(stream: { isTTY?: boolean }): boolean {
  return stream.isTTY === true && !process.env.NO_COLOR && process.env.TERM !== "dumb";
}

export function styled(stream: { isTTY?: boolean }, style: Style, text: string): string {
  if (!coloursOn(stream)) return text;
  const [on, off] = CODES[style];
  return `\u001b[${on}m${text}\u001b[${off}m`;
}

/** Data, to stdout. */
export function print(text: string): void {
  process.stdout.write(text);
}

export function printLine(text = ""): void {
  process.stdout.write(`${text}\n`);
}

/** One JSON document, to stdout. Typed arrays become arrays, NaN and infinities null. */
export function printJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value, jsonValue, 2)}\n`);
}

/** One line of JSON, to stdout. */
export function printJsonLine(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value, jsonValue)}\n`);
}

/** Notes about the work, to stderr. */
export function note(text: string): void {
  process.stderr.write(`${text}\n`);
}

export function warn(text: string): void {
  process.stderr.write(`${styled(process.stderr, "yellow", "warning:")} ${text}\n`);
}

/** An error as a person reads it: the sentence, its code, the remedies. */
export function reportError(error: unknown): void {
  const text = error instanceof Error ? error.message : String(error);
  const code = errorCode(error);
  const label = styled(process.stderr, "red", "error:");
  const [sentence = "", ...rest] = text.split("\n");
  const lines = [`${label} ${sentence}${code === undefined ? "" : ` [${code}]`}`, ...rest];
  process.stderr.write(`${lines.join("\n")}\n`);
  if (process.env.CHATSPACE_TRACE && error instanceof Error) process.stderr.write(`${error.stack}\n`);
}

/** The same for --json: one object on stdout, so that a script reads one stream. */
export function reportErrorJson(error: unknown): void {
  const message = error instanceof Error ? error.message : String(error);
  const details = error instanceof SteerError ? { details: error.details, remedies: error.remedies } : {};
  printJson({ error: { code: errorCode(error) ?? "ERR_FAILED", message, ...details } });
}

export function errorCode(error: unknown): string | undefined {
  if (typeof error !== "object" || error === null || !("code" in error)) return undefined;
  return typeof error.code === "string" ? error.code : undefined;
}

/**
 * A progress line on stderr: redrawn in place on a terminal, a line every ten percent elsewhere.
 * Give the result to `onProgress`; call `end` when the work is over.
 */
export function progressBar(): { onProgress: (event: ProgressEvent) => void; end: () => void } {
  let drawn = false;
  let lastStep = "";
  return {
    onProgress({ stage, name, bytesDone, bytesTotal }) {
      const fraction = bytesTotal > 0 ? bytesDone / bytesTotal : 0;
      const percent = Math.floor(fraction * 100);
      const size =
        bytesTotal > 0 ? `${bytesText(bytesDone)} of ${bytesText(bytesTotal)}` : bytesText(bytesDone);
      if (process.stderr.isTTY) {
        const filled = Math.round(fraction * 24);
        const bar = `${"█".repeat(filled)}${"░".repeat(24 - filled)}`;
        process.stderr.write(`\r\u001b[2K${stage} ${name} ${bar} ${percent}% ${size}`);
        drawn = true;
        return;
      }
      const step = `${stage} ${name} ${Math.floor(percent / 10)}`;
      if (step === lastStep) return;
      lastStep = step;
      process.stderr.write(`${stage} ${name} ${percent}% (${size})\n`);
    },
    end() {
      if (drawn) process.stderr.write("\r\u001b[2K");
      drawn = false;
    },
  };
}

/** 98362432 -> "98.4 MB". */
export function bytesText(bytes: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}

/** Columns padded to their widest cell. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, column) =>
    Math.max(...rows.map((row) => (row[column] ?? "").length)),
  );
  return rows
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column]!))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}

function jsonValue(_key: string, value: unknown): unknown {
  if (ArrayBuffer.isView(value) && !(value instanceof DataView))
    return Array.from(value as unknown as ArrayLike<number>);
  return value;
}
