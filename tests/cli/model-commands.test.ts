// SPDX-License-Identifier: Apache-2.0
// The commands on the small model of the package: what they print, their proof, their exit codes, Ctrl-C.
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { readNpy } from "../../src/formats/npy.ts";
import { readSafetensors } from "../../src/formats/safetensors.ts";
import { toFloat32, toIntegers } from "../../src/formats/tensor.ts";
import { SteeringVector } from "../../src/steering/vector.ts";
import { cli, ensureBuilt } from "./run-cli.ts";

const MODEL = ["-m", "stories260k", "--device", "cpu"];
const folder = mkdtempSync(join(tmpdir(), "chatspace-cli-"));
const file = (name: string) => join(folder, name);

beforeAll(async () => {
  await ensureBuilt();
  const direction = Float32Array.from({ length: 64 }, (_, i) => Math.sin(i));
  await new SteeringVector({ directions: new Map([[2, direction]]) }).save(file("wave.safetensors"));
}, 180_000);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe("smoke", () => {
  test("passes, and its report holds what it checked", async () => {
    const { code, stdout } = await cli(["smoke", ...MODEL, "--json"]);
    const report = JSON.parse(stdout);
    expect(report.checks).toEqual({
      steeredDiffers: true,
      restoredIsIdentical: true,
      normMatches: true,
      rowsWereTouched: true,
    });
    expect(report.norm.relativeError).toBeLessThan(1e-3);
    expect(report.layer).toBe(2);
    expect(report.steered.text).not.toBe(report.baseline.text);
    expect(report.logprob.shift).toBeLessThan(0);
    expect(code).toBe(0);
  });

  test("defect 7: can fail: a vector that does nothing ends with 1", async () => {
    const { code, stdout } = await cli(["smoke", ...MODEL, "--scale", "0"]);
    expect(code).toBe(1);
    expect(stdout).toMatch(/FAIL the steered answer differs/);
  });

  test("a layer that is not there ends with 2", async () => {
    const { code, stderr } = await cli(["smoke", ...MODEL, "--layer", "5"]);
    expect(code).toBe(2);
    expect(stderr).toMatch(/0 to 4.*got 5.*\[ERR_LAYER_RANGE\]/);
  });
});

describe("generate", () => {
  test("a program as text acts, and its proof is shown", async () => {
    const wave = file("wave.safetensors");
    const program = `3 "${wave}"@layers.2 @generation + rotate("${wave}", 30deg)@layers.2 @when(cos "${wave}" < 2)`;
    const args = ["generate", "Once upon a time", ...MODEL, "-n", "6", "--steering"];
    const { code, stderr } = await cli([...args, program]);
    expect(stderr).toMatch(/add at layers\.2: 5 rows/);
    expect(stderr).toMatch(/rotate at layers\.2: \d+ rows/);
    expect(code).toBe(0);
    const refused = await cli([...args, "3 happy @generatoin"]);
    expect(refused.stderr).toMatch(/at 9: expected a site .*\[ERR_PROGRAM_TEXT\]/s);
    expect(refused.code).toBe(2);
  });

  test("streams the text to stdout and the rest to stderr", async () => {
    const { code, stdout, stderr } = await cli(["generate", "Once upon a time", ...MODEL, "-n", "12"]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^Once upon a time, there was a little girl/);
    expect(stderr).toMatch(/tokens\/s, length\]/);
  });

  test("reads the prompt from a pipe, answers in JSON, proves the steering", async () => {
    const args = [
      "generate",
      ...MODEL,
      "-n",
      "8",
      "--ignore-eos",
      "-v",
      file("wave.safetensors"),
      "-s",
      "2",
      "--json",
    ];
    const { code, stdout } = await cli(args, { input: "The\n" });
    expect(code).toBe(0);
    const result = JSON.parse(stdout);
    expect(result).toMatchObject({ prompt: "The", finishReason: "length", usage: { generatedTokens: 8 } });
    expect(result.steering).toMatchObject([{ site: "layers.2", op: "add", rows: 9 }]);
  });

  test("Ctrl-C ends cleanly with 130", async () => {
    const args = ["generate", "Once upon a time", ...MODEL, "-n", "500", "--ignore-eos"];
    let sent = false;
    const { code, stdout } = await cli(args, {
      onOutput: (_text, kill) => {
        if (!sent) kill("SIGINT");
        sent = true;
      },
    });
    expect(code).toBe(130);
    expect(stdout.length).toBeLessThan(1500);
  });
});

test("chat without a template is a data error", async () => {
  const { code, stderr } = await cli(["chat", "Hello", ...MODEL]);
  expect(code).toBe(4);
  expect(stderr).toMatch(/ERR_TEMPLATE_MISSING/);
});

describe("capture", () => {
  test("every row of every text, with what it is of", async () => {
    writeFileSync(file("texts.jsonl"), '{"q":"Once upon a time"}\n{"q":"The"}\n');
    const out = file("states.safetensors");
    const args = [
      "capture",
      file("texts.jsonl"),
      ...MODEL,
      "--field",
      "q",
      "-o",
      out,
      "-a",
      "2",
      "-a",
      "-1",
      "--json",
    ];
    const { code, stdout } = await cli(args);
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({
      texts: 2,
      shapes: { "layers.2": [7, 64], "layers.4": [7, 64] },
    });
    const { tensors, metadata } = readSafetensors(out);
    expect(toIntegers(tensors.get("text")!)).toEqual([0, 0, 0, 0, 0, 1, 1]);
    expect(toIntegers(tensors.get("position")!)).toEqual([0, 1, 2, 3, 4, 0, 1]);
    expect(metadata.base_model).toBe("stories260k");
  });

  test(".npy holds one pooled row a text", async () => {
    writeFileSync(file("texts.txt"), "Once upon a time\nThe\n\nLily\n");
    const args = [
      "capture",
      file("texts.txt"),
      ...MODEL,
      "-o",
      file("last.npy"),
      "-a",
      "2",
      "--pool",
      "last",
    ];
    const { code } = await cli(args);
    expect(code).toBe(0);
    const tensor = readNpy(file("last.npy"));
    expect(tensor.shape).toEqual([3, 64]);
    expect(toFloat32(tensor).every(Number.isFinite)).toBe(true);
  });

  test("a field that is not there is named, and nothing is written", async () => {
    const out = file("none.safetensors");
    const { code, stderr } = await cli(["capture", "-", ...MODEL, "-o", out, "-a", "1"], {
      input: '{"a":"x"}\n',
    });
    expect(code).toBe(4);
    expect(stderr).toMatch(/line 1: expected text in the field "text", got a/);
    expect(existsSync(out)).toBe(false);
  });
});

test("inspect says what the model is", async () => {
  const { code, stdout } = await cli(["inspect", "stories260k", "--json"]);
  expect(code).toBe(0);
  const info = JSON.parse(stdout);
  expect(info).toMatchObject({
    name: "stories260k",
    family: "llama",
    layers: 5,
    hiddenSize: 64,
    kind: "own",
  });
  expect(info.layerOutput).toBe("delta-residual");
  expect(info.sites.map((site: { name: string }) => site.name)).toContain("layers.4.mlp");
  const text = await cli(["inspect", "stories260k", "--sites"]);
  expect(text.stdout).toMatch(/layers\.4\.attn\s+64\s+layers\.4\.attn\s+Attention/);
  expect(text.stdout).toMatch(
    /source +model\.safetensors \(safetensors, 1\.0 MB, sha256 407a7c58[0-9a-f]{56}\)/,
  );
  expect(text.stdout).toMatch(
    /stored weights +292\.8 k numbers in 48 x F32\nloaded as +float32, not quantised/,
  );
});
