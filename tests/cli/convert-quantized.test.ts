// SPDX-License-Identifier: Apache-2.0
// Archives that were quantised at conversion, through the commands with real files: what they say of
// themselves, and that smoke, chat, vectors and capture do with them what they do with any other.
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { readSafetensors } from "../../src/formats/safetensors.ts";
import { toFloat32 } from "../../src/formats/tensor.ts";
import { cacheFolder } from "../../src/model/cache-folder.ts";
import { shared } from "../native/golden.ts";
import { cli, ensureBuilt } from "./run-cli.ts";

const STORIES = shared("models/llama-stories260K/hf");
const SMOLLM2 = join(cacheFolder(), "sources/SmolLM2-135M-Instruct.Q4_1.gguf");
const folder = mkdtempSync(join(tmpdir(), "chatspace-cli-quantised-"));
const file = (name: string) => join(folder, name);
beforeAll(ensureBuilt, 180_000);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe.skipIf(!existsSync(STORIES))("a Hugging Face folder, --quantize int4", () => {
  const archive = file("stories-int4.pt");

  test("is written, says so, and answers to smoke, generate and capture", async () => {
    const made = await cli(["convert", STORIES, archive, "--quantize", "int4", "--json"]);
    expect(made.stderr).toMatch(/100%/);
    expect(JSON.parse(made.stdout)).toMatchObject({ stored: { dtype: "auto", quantize: "int4" } });
    const info = await cli(["inspect", archive]);
    expect(info.stdout).toMatch(/stored weights .*Q8_0.*Q4_1/);
    expect(info.stdout).toMatch(/converted as +int4/);
    expect(info.stdout).toMatch(/loaded as +float32, quantised matrices as they are stored/);
    const told = JSON.parse((await cli(["inspect", archive, "--json"])).stdout);
    expect(told).toMatchObject({ quantize: "stored", dtype: "float32" });
    expect(told.metadata.source.files[0].sha256).toMatch(/^407a7c58/);
    const smoke = await cli(["smoke", "-m", archive, "--device", "cpu"]);
    expect(smoke.code, smoke.stdout + smoke.stderr).toBe(0);
    const text = ["generate", "Once upon a time", "-n", "12", "--device", "cpu", "-m"];
    const [stored, atLoad] = [
      await cli([...text, archive]),
      await cli([...text, STORIES, "--quantize", "int4"]),
    ];
    expect(stored.code).toBe(0);
    expect(stored.stdout).toBe(atLoad.stdout);
    writeFileSync(file("texts.txt"), "Once upon a time\n");
    const states: Float32Array[] = [];
    for (const [out, ...model] of [
      [file("stored.safetensors"), "-m", archive],
      [file("at-load.safetensors"), "-m", STORIES, "--quantize", "int4"],
    ] as [string, ...string[]][]) {
      const captured = await cli(["capture", file("texts.txt"), ...model, "-a", "2", "-o", out]);
      expect(captured.code, captured.stderr).toBe(0);
      states.push(toFloat32(readSafetensors(out).tensors.get("layers.2")!));
    }
    expect(states[0]).toEqual(states[1]);
  }, 180_000);

  test("an output that is there is not replaced unless that is asked for; other words are usage errors", async () => {
    const again = await cli(["convert", STORIES, archive, "--quantize", "int8"]);
    expect(again.code).toBe(2);
    const other = await cli(["convert", STORIES, file("x.pt"), "--quantize", "int3"]);
    expect(other.code).toBe(2);
    expect(other.stderr).toMatch(/Allowed choices are none, int8, int4/);
  });
});

describe.skipIf(!existsSync(SMOLLM2))(
  "the default model's GGUF, --quantize int8 (skipped where it was not pulled)",
  () => {
    test("smoke with a named vector, chat and a program answer", { timeout: 300_000 }, async () => {
      const archive = file("smollm2-int8.pt");
      const made = await cli(["convert", SMOLLM2, archive, "--quantize", "int8"]);
      expect(made.code, made.stderr).toBe(0);
      const smoke = await cli([
        "smoke",
        "-m",
        archive,
        "-v",
        "happy",
        "--layer",
        "16",
        "-n",
        "16",
        "--device",
        "cpu",
        "--json",
      ]);
      expect(smoke.code, smoke.stdout + smoke.stderr).toBe(0);
      expect(JSON.parse(smoke.stdout).checks).toMatchObject({
        steeredDiffers: true,
        restoredIsIdentical: true,
      });
      const chat = await cli([
        "chat",
        "Name a colour.",
        "-m",
        archive,
        "-n",
        "12",
        "--vector",
        "happy",
        "--scale",
        "1",
        "--layer",
        "16",
        "--device",
        "cpu",
      ]);
      expect(chat.code, chat.stderr).toBe(0);
      expect(chat.stdout.trim().length).toBeGreaterThan(3);
      expect(chat.stderr).toMatch(/add at layers\.16: \d+ rows/);
    });
  },
);
