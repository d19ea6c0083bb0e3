// SPDX-License-Identifier: Apache-2.0
// A token's row, given as an embedding, has to be the token: for every family the rows of a compressed
// prompt are taken from, a prompt of rows gives the logits of the prompt of tokens, bit for bit.

import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openTokenRows, storedTokenRows } from "../../src/memory/token-rows.ts";
import { convert } from "../../src/model/convert.ts";
import { SteerModel } from "../../src/model/steer-model.ts";
import { worst } from "./converted-model.ts";

const DECODERS = fileURLToPath(new URL("../../../shared/golden/decoders/", import.meta.url));
const families = existsSync(DECODERS)
  ? readdirSync(DECODERS, { withFileTypes: true }).filter((entry) => entry.isDirectory())
  : [];
const tokens = Int32Array.of(3, 1, 4, 1, 5, 9, 2, 6);
const load = { device: "cpu", threads: 2 } as const;

let scratch: string;
beforeAll(() => {
  scratch = mkdtempSync(join(tmpdir(), "token-rows-"));
  process.env.CHATSPACE_CACHE = join(scratch, "cache");
});
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

// The checkpoints of the families lie beside the repository, made by the reference implementation.
describe.skipIf(families.length === 0)("rows of the reference checkpoints", () => {
  test.each(families.map(({ name }) => name))("%s", async (name) => {
    const folder = join(DECODERS, name);
    const rows = await openTokenRows(folder, load);
    await using model = await SteerModel.load(folder, load);
    try {
      const promptEmbeddings = await rows.rows(tokens);
      const shape = [tokens.length, rows.hiddenSize] as const;
      const given = await model.forward({ promptEmbeddings, shape }, { logits: "all" });
      const own = await model.forward({ tokens }, { logits: "all" });
      const { value } = worst(given.logits, own.logits);
      console.info(`${name}: ${storedTokenRows(folder) ? "stored" : "captured"}, worst ${value}`);
      expect(value).toBe(0);
    } finally {
      await rows.dispose();
    }
  });

  test.each(["granite", "gpt2"])(
    "an archive of %s, whose site is read too late, is refused",
    async (name) => {
      const folder = join(scratch, name);
      const { cpSync } = await import("node:fs");
      cpSync(join(DECODERS, name), folder, { recursive: true });
      await convert(folder, join(folder, "model.pt"));
      await expect(openTokenRows(folder, load)).rejects.toMatchObject({ code: "ERR_MEMORY_CHECKPOINT" });
    },
  );
});
