// SPDX-License-Identifier: Apache-2.0
// Every GGUF element type against the `gguf` Python package: the same blocks, decoded by both.
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const SCRIPT = fileURLToPath(new URL("../py/gguf_type_blocks.py", import.meta.url));

/** Per type: elements compared, how many have other bits (two NaN are the same), the largest difference. */
export function compareTypes(addon, { readSafetensors, toFloat32 }, python, elements) {
  const folder = mkdtempSync(join(tmpdir(), "chatspace-gguf-types-"));
  try {
    const file = join(folder, "blocks.safetensors");
    const made = spawnSync(python, [SCRIPT, file, "--elements", String(elements)], { encoding: "utf8" });
    if (made.status !== 0) throw new Error(`${SCRIPT} failed: ${made.stderr}`);
    const { tensors, metadata } = readSafetensors(file);
    const types = [...tensors.keys()]
      .filter((name) => name.endsWith(".blocks"))
      .map((name) => name.slice(0, -7));
    return {
      version: metadata.gguf,
      types: types.map((type) => {
        const expected = toFloat32(tensors.get(`${type}.values`));
        const got = addon.dequantize(type, tensors.get(`${type}.blocks`).data, expected.length);
        return { type, elements: expected.length, ...difference(got, expected) };
      }),
    };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function difference(got, expected) {
  const bits = (values) => new Uint32Array(values.buffer, values.byteOffset, values.length);
  const [a, b] = [bits(got), bits(expected)];
  let differing = 0;
  let worst = 0;
  for (let i = 0; i < a.length; i++) {
    if (a[i] === b[i] || (Number.isNaN(got[i]) && Number.isNaN(expected[i]))) continue;
    differing++;
    worst = Math.max(worst, Math.abs(got[i] - expected[i]));
  }
  return { differing, worst };
}
