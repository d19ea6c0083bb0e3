// SPDX-License-Identifier: Apache-2.0
// Reads a family's TorchScript source (native/architectures) and cuts it into modules.

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const FOLDER = new URL("../../../native/architectures/", import.meta.url);

/** How often the repeated lines of a source stand in an archive. */
export interface Repeats {
  layers: number;
  /** Experts of a mixture, 0 without. */
  experts: number;
}

/**
 * Sections of `native/architectures/NAME.torchscript` by module kind. Lines that end in "# each layer"
 * ("# each expert") stand once for every layer (expert), with {i} ({e}) replaced by its number;
 * TorchScript has no loop over modules.
 */
export function readFamilySource(name: string, repeats: Repeats): { kind: string; text: string }[] {
  const text = readFileSync(fileURLToPath(new URL(`${name}.torchscript`, FOLDER)), "utf8");
  const sections = text.split(/^# module: *(\w+) *$/m);
  const sources: { kind: string; text: string }[] = [];
  for (let i = 1; i < sections.length; i += 2) {
    const layers = unroll(sections[i + 1]!, /^(.*?) *# each layer *$/, "{i}", repeats.layers);
    const body = unroll(layers, /^(.*?) *# each expert *$/, "{e}", repeats.experts).trim();
    // A section that holds comments only is a module without methods.
    sources.push({ kind: sections[i]!, text: /^\s*def /m.test(body) ? `${body}\n` : "" });
  }
  return sources;
}

function unroll(text: string, marked: RegExp, placeholder: string, count: number): string {
  const lines = text.split("\n").flatMap((line) => {
    const body = marked.exec(line)?.[1];
    if (body === undefined) return [line];
    return Array.from({ length: count }, (_, i) => body.replaceAll(placeholder, String(i)));
  });
  return lines.join("\n");
}
