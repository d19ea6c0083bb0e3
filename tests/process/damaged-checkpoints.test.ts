// SPDX-License-Identifier: Apache-2.0
// Damaged checkpoints through the whole converter. `npm run test:slow` does this with 21,000 of them.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, test } from "vitest";
import { fuzz, fuzzSources } from "./fuzz.ts";

const folder = mkdtempSync(join(tmpdir(), "chatspace-damaged-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const sources = fuzzSources(folder);

test.each(["safetensors", "gguf", "torch"])(
  "%s: 700 damaged copies are converted or refused, and leave nothing behind",
  { timeout: 200_000 },
  (kind) => fuzz(kind, sources[kind]!, 700, 1),
);
