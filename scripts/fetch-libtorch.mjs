#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
// Command line of scripts/lib/libtorch-get.mjs. Progress on stderr, the folder on stdout.
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { DEFAULT_VERSION } from "./lib/libtorch-folder.mjs";
import { ensureLibtorch } from "./lib/libtorch-get.mjs";
import { say } from "./lib/run.mjs";

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "..");

const usage = `Usage: node scripts/fetch-libtorch.mjs [options]

Finds or gets libtorch and links it as vendor/libtorch. Tried in order: --libtorch or
CHATSPACE_LIBTORCH, vendor/libtorch, the user cache, a Python torch, PyTorch's archive, the torch wheel.

  --libtorch DIR   use this one (a folder with include/ and lib/)
  --version X.Y.Z  exactly this version (default: any supported one at hand, else ${DEFAULT_VERSION})
  --cuda           with the CUDA libraries and headers (several GB)
  --force          get a fresh one although one is here
  --offline        only look, download nothing
  --verify         check the sha256 of every library
  --json           the result as JSON

Environment: CHATSPACE_LIBTORCH, CHATSPACE_CACHE, CHATSPACE_PYTHON, CHATSPACE_LIBTORCH_URL (mirror of
https://download.pytorch.org/libtorch); pip's own settings (PIP_INDEX_URL, pip.conf) hold for wheels.`;

try {
  const { values } = parseArgs({
    options: {
      libtorch: { type: "string" },
      version: { type: "string" },
      cuda: { type: "boolean", default: false },
      force: { type: "boolean", default: false },
      offline: { type: "boolean", default: false },
      verify: { type: "boolean", default: false },
      json: { type: "boolean", default: false },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  if (values.help) process.stdout.write(`${usage}\n`);
  else {
    const found = await ensureLibtorch({ root, ...values });
    say(`libtorch ${found.version} (${found.cuda ? "with CUDA" : "CPU"}) from: ${found.source}`);
    process.stdout.write(values.json ? `${JSON.stringify(found)}\n` : `${found.directory}\n`);
  }
} catch (error) {
  say(`fetch-libtorch: ${error.message}`);
  process.exitCode = error.code?.startsWith?.("ERR_PARSE_ARGS") ? 2 : 3;
}
