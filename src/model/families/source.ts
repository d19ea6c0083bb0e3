// SPDX-License-Identifier: Apache-2.0
// Reads a family's TorchScript source (native/architectures) and cuts it into modules.

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const FOLDER = new URL("../../../native/architectures/", import.meta.url);

/**
 * Sections of `native/architectures/NAME.torchscript` by module kind. Lines that end in "# each layer"
 * stand once for every layer, with {i} replaced by its number; TorchScript has no loop over modules.
 */
export function readFamilySource(name: string, layers: number): { kind: string; text: string }[] {
  const text = readFileSync(fileURLToPath(new URL(`${name}.torchscript`, FOLDER)), "utf8");
  const sections = text.split(/^# module: *(\w+) *$/m);
  const sources: { kind: string; text: string }[] = [];
  for (let i = 1; i < sections.length; i += 2) {
    sources.push({ kind: sections[i]!, text: unrollLayers(sections[i + 1]!, layers).trim() });
  }
  // A section that holds comments only is a module without methods.
  return sources.map(({ kind, text: body }) => ({ kind, text: /^\s*def /m.test(body) ? `${body}\n` : "" }));
}

function unrollLayers(text: string, layers: number): string {
  const lines = text.split("\n").flatMap((line) => {
    const body = /^(.*?) *# each layer *$/.exec(line)?.[1];
    if (body === undefined) return [line];
    return Array.from({ length: layers }, (_, i) => body.replaceAll("{i}", String(i)));
  });
  return lines.join("\n");
}
