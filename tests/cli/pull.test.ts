// SPDX-License-Identifier: Apache-2.0
// `pull`, `models` and -m org/name as a user types them, against a hub on this machine.

import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type HubFixture, startHub } from "../unit/hub-server.ts";
import { cli, ensureBuilt } from "./run-cli.ts";

const MODEL = fileURLToPath(new URL("../../../shared/models/llama-stories260K/hf", import.meta.url));
const root = mkdtempSync(join(tmpdir(), "chatspace-pull-"));
let hub: HubFixture;
let env: Record<string, string>;

describe.skipIf(!existsSync(MODEL))("pull", () => {
  beforeAll(async () => {
    await ensureBuilt();
    hub = await startHub();
    const names = [
      "config.json",
      "generation_config.json",
      "model.safetensors",
      "tokenizer.json",
      "tokenizer_config.json",
    ];
    const files = new Map(names.map((name) => [name, readFileSync(join(MODEL, name))]));
    hub.repositories.set("karpathy/stories", { commit: "c".repeat(40), files });
    env = {
      HF_ENDPOINT: hub.endpoint,
      HF_HOME: join(root, "hf"),
      CHATSPACE_CACHE: join(root, "ours"),
      HF_TOKEN: "",
    };
  }, 180_000);
  afterAll(() => {
    hub.close();
    rmSync(root, { recursive: true, force: true });
  });

  test("a model is pulled, listed, generated with and inspected by its name", async () => {
    const pulled = await cli(["pull", "karpathy/stories", "--json"], { env });
    expect(pulled.code).toBe(0);
    expect(pulled.stderr).toMatch(/download karpathy\/stories 100%/);
    const { path } = JSON.parse(pulled.stdout);
    expect(existsSync(path)).toBe(true);
    const listed = await cli(["models"], { env });
    expect(listed.stdout).toMatch(/karpathy\/stories +ready +1\.1 MB +mit +on a hub, commit cccccccccccc/);
    hub.asked.length = 0;
    const text = await cli(["generate", "Once upon a time", "-m", "karpathy/stories", "-n", "8"], { env });
    expect(text.stdout).toMatch(/^Once upon a time, there was/);
    const info = await cli(["inspect", "karpathy/stories"], { env });
    expect(info.stdout).toMatch(
      /from +karpathy\/stories at c{40}\nsource +model\.safetensors .*sha256 407a7c58/,
    );
    expect(hub.asked).toEqual([]);
  });

  test("what is not there ends with a code, a sentence and remedies", async () => {
    const missing = await cli(["pull", "karpathy/stories", "--revision", "other"], { env });
    expect(missing.code).toBe(4);
    expect(missing.stderr).toMatch(/404: karpathy\/stories at other is not there \[ERR_HUB_NOT_FOUND\]/);
    const file = await cli(["pull", "karpathy/stories", "--file", "Q8_0"], { env });
    expect(file.stderr).toMatch(/\[ERR_HUB_FILE\]/);
    const usage = await cli(["pull", "stories260k", "--file", "Q8_0"], { env });
    expect(usage.code).toBe(2);
  });
});
