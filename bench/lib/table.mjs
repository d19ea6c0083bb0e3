// SPDX-License-Identifier: Apache-2.0
// What every benchmark prints: the machine, then a table, as Markdown that docs/performance.md can take.
import { readFileSync } from "node:fs";
import { cpus } from "node:os";

export function machineLine(addon) {
  const { isa, cores } = addon.machine();
  const flags = /^flags\s*:(.*)$/m.exec(readFileSync("/proc/cpuinfo", "utf8"))?.[1] ?? "";
  const extra = ["avx512_vnni", "avx512_bf16", "amx_bf16"].filter((f) => flags.includes(f)).join(" ");
  const date = new Date().toISOString().slice(0, 16).replace("T", " ");
  return `${date} UTC, ${cpus()[0]?.model.trim()}, ${cores} cores, kernels ${isa}${extra ? ` (${extra})` : ""}, Node ${process.version}`;
}

/** Lines of a Markdown table whose columns line up. */
export function tableLines(header, rows) {
  const all = [header, ...rows].map((row) => row.map((cell) => String(cell)));
  const widths = header.map((_, column) => Math.max(...all.map((row) => row[column].length)));
  const line = (row) =>
    `| ${row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]) : cell.padStart(widths[i]))).join(" | ")} |`;
  const rule = `|${widths.map((w, i) => (i === 0 ? "-".repeat(w + 2) : `${"-".repeat(w + 1)}:`)).join("|")}|`;
  return [line(all[0]), rule, ...all.slice(1).map(line)];
}

export function printTable(header, rows) {
  for (const line of tableLines(header, rows)) console.log(line);
}

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

export const fixed = (value, digits = 1) => (value === null ? "-" : value.toFixed(digits));
