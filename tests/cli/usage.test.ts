// SPDX-License-Identifier: Apache-2.0
// The command line before any model: help, mistakes, exit codes, what goes to which stream.
import { beforeAll, describe, expect, test } from "vitest";
import { cli, ensureBuilt } from "./run-cli.ts";

beforeAll(ensureBuilt, 180_000);

describe("help", () => {
  test.each(["smoke", "generate", "chat", "capture", "convert", "inspect", "models", "doctor"])(
    "%s teaches by example",
    async (command) => {
      const { code, stdout, stderr } = await cli([command, "--help"]);
      expect(code).toBe(0);
      expect(stdout).toMatch(/Examples:/);
      expect(stdout).toMatch(new RegExp(`\\$ .*chatspace-steer ${command}`));
      expect(stderr).toBe("");
    },
  );

  test("without a command it lists the commands", async () => {
    const { code, stdout } = await cli([]);
    expect(code).toBe(0);
    for (const name of ["smoke", "generate", "doctor"]) expect(stdout).toContain(name);
  });

  test("the version is the package's", async () => {
    const { code, stdout } = await cli(["--version"]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
  });

  test("colours only on a terminal", async () => {
    const { stdout } = await cli(["models"], { env: { NO_COLOR: "", FORCE_COLOR: "" } });
    expect(stdout).not.toContain("\u001b[");
  });
});

describe("mistakes end with 2 and say what was meant", () => {
  test.each([
    [["smok"], /Did you mean smoke\?/],
    [["generate", "x", "--temprature", "1"], /Did you mean --temperature\?/],
    [["generate", "x", "--scale", "much"], /Expected a number/],
    [["generate", "x", "--max-tokens", "-1"], /Expected an integer from 0/],
    [["generate", "x", "--op", "sub"], /Allowed choices are add, cap, ablate, replace/],
    [["generate", "x", "--dtype", "float64"], /Allowed choices/],
    [["generate", "x", "--cuda-graphs", "on"], /too many arguments/],
    [["capture", "-o", "x.safetensors"], /required option '-a, --at <site>'/],
    [["capture", "-o", "x.txt", "--at", "1"], /\.safetensors, \.arrow, \.npy/],
    [["convert", "a"], /missing required argument 'output'/],
    [["generate"], /expected a prompt/],
  ])("%j", async (args, says) => {
    const { code, stdout, stderr } = await cli(args);
    expect(stderr).toMatch(says);
    expect(stdout).toBe("");
    expect(code).toBe(2);
  });
});

test("what is not there ends with 4, and --json says so on stdout", async () => {
  const { code, stdout, stderr } = await cli(["generate", "x", "-m", "smollm3", "--json"]);
  expect(code).toBe(4);
  expect(stderr).toMatch(/ERR_MODEL_UNKNOWN/);
  expect(JSON.parse(stdout)).toMatchObject({ error: { code: "ERR_MODEL_UNKNOWN" } });
  const vector = await cli(["generate", "x", "-m", "stories260k", "-v", "hapy"]);
  expect(vector.code).toBe(4);
  expect(vector.stderr).toMatch(/did you mean "happy"\?/);
});

test("models lists what can be named", async () => {
  const { code, stdout } = await cli(["models", "list", "--json"]);
  expect(code).toBe(0);
  const { models, vectors } = JSON.parse(stdout) as { models: { name: string }[]; vectors: string[] };
  expect(models.map((model) => model.name)).toContain("stories260k");
  expect(vectors).toEqual(expect.arrayContaining(["happy", "sad", "calm", "angry"]));
});
