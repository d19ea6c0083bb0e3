// SPDX-License-Identifier: Apache-2.0
// A conversion that runs out of room: a typed error, and nothing half-written under any name. The room is
// the process's limit on the size of a file, so that no disk has to be full.

import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { afterAll, expect, test } from "vitest";

const CONVERT = pathToFileURL(fileURLToPath(new URL("../../dist/model/convert.js", import.meta.url)));
const SOURCE = fileURLToPath(new URL("../golden/decoders/smollm3", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "chatspace-full-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const SCRIPT = `
const { convert } = await import(${JSON.stringify(CONVERT.href)});
const output = process.argv[1];
try {
  await convert(${JSON.stringify(SOURCE)}, output, JSON.parse(process.argv[2]));
  console.log("written");
} catch (error) {
  console.log(error.code + " " + error.message);
}`;

test.each([
  ["as it is", 60, {}],
  ["a scratch file that finds no room", 2, { quantize: "int8" }],
  ["another dtype", 60, { dtype: "float16" }],
])("%s, with room for %i kB", (name, kilobytes, form) => {
  const output = join(folder, "model.pt");
  // What was there before stays what it was.
  writeFileSync(output, "an older archive");
  const ran = spawnSync(
    "bash",
    [
      "-c",
      `trap '' XFSZ; ulimit -f ${kilobytes}; exec "$0" --input-type=module -e "$1" "$2" "$3"`,
      process.execPath,
      SCRIPT,
      output,
      JSON.stringify(form),
    ],
    { encoding: "utf8", env: { ...process.env, NODE_OPTIONS: "" } },
  );
  expect(ran.signal, `${name}: ${ran.stderr}`).toBe(null);
  expect(ran.stdout).toMatch(/^ERR_CONVERT_WRITE .*(File too large|cannot (write|reserve))/);
  expect(readdirSync(folder)).toEqual(["model.pt"]);
});
