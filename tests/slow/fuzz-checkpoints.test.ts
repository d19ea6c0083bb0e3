// SPDX-License-Identifier: Apache-2.0
// 21,000 damaged checkpoints through the whole converter; CHATSPACE_SEED makes it others.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, test } from "vitest";
import { fuzz, fuzzSources } from "../process/fuzz.ts";

const SEED = Number(process.env.CHATSPACE_SEED ?? 7);
const folder = mkdtempSync(join(tmpdir(), "chatspace-fuzzed-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const sources = fuzzSources(folder);

test.each(["safetensors", "gguf", "torch"])("%s: 7,000 damaged copies are converted or refused", (kind) =>
  fuzz(kind, sources[kind]!, 7000, SEED),
);
