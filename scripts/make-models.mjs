#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
// Makes the archives in models/ from their sources, with the built addon and dist/ (npm run build).
// The result is the same file for the same source, libtorch and converter.
import { existsSync, mkdtempSync, renameSync, rmSync, statSync } from "node:fs";
import { join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

const root = fileURLToPath(new URL("..", import.meta.url));

const usage = `Usage: node scripts/make-models.mjs [options]
  --stories DIR   Hugging Face folder of TinyStories 260K (default ../shared/models/llama-stories260K/hf)
  --out DIR       where the archives go (default models)
  --dist DIR      the compiled TypeScript (default dist)`;

const { values } = parseArgs({
  options: {
    stories: { type: "string", default: join(root, "../shared/models/llama-stories260K/hf") },
    out: { type: "string", default: join(root, "models") },
    dist: { type: "string", default: join(root, "dist") },
    help: { type: "boolean", short: "h", default: false },
  },
});

if (values.help) {
  console.log(usage);
  process.exit(0);
}
if (!existsSync(values.stories)) {
  console.error(
    `make-models: expected a Hugging Face folder, got nothing at ${values.stories} (--stories DIR)`,
  );
  process.exit(4);
}

const { convert } = await import(pathToFileURL(resolve(values.dist, "model/convert.js")));
const folder = mkdtempSync(join(values.out, ".make-"));
try {
  const made = join(folder, "stories260k.pt");
  const metadata = await convert(values.stories, made);
  renameSync(made, join(values.out, "stories260k.pt"));
  console.error(
    `stories260k.pt: ${statSync(join(values.out, "stories260k.pt")).size} bytes, ${metadata.layers} layers, ` +
      `source sha256 ${metadata.source.files[0].sha256}`,
  );
} finally {
  rmSync(folder, { recursive: true, force: true });
}
