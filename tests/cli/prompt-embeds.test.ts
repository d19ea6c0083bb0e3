// SPDX-License-Identifier: Apache-2.0
// `prompt-embeds` as a user runs it: build, generate, run, send, and what each says when it cannot.
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { readNpy } from "../../src/formats/npy.ts";
import { toFloat32 } from "../../src/formats/tensor.ts";
import { encodePromptEmbeds, readPromptEmbeddings } from "../../src/memory/embedding-files.ts";
import { cli, ensureBuilt } from "./run-cli.ts";

const golden = fileURLToPath(new URL("../golden/memory", import.meta.url));
const checkpoint = join(golden, "checkpoint");
const { cases } = JSON.parse(readFileSync(join(golden, "expected.json"), "utf8")) as {
  cases: { name: string; text?: string; messages?: object[]; tokens: number[]; greedy: number[] }[];
};
const caseOf = (name: string) => cases.find((one) => one.name === name)!;
const text = caseOf("two-spans").text!;

let scratch: string;
const path = (name: string) => join(scratch, name);
const run = (args: string[], options: { input?: string; env?: Record<string, string> } = {}) =>
  cli(["prompt-embeds", ...args, ...(args[0] === "send" ? [] : ["--device", "cpu"])], {
    ...options,
    env: { CHATSPACE_CACHE: path("cache"), VLLM_API_KEY: "", ...options.env },
  });

beforeAll(async () => {
  await ensureBuilt();
  scratch = mkdtempSync(join(tmpdir(), "prompt-embeds-"));
  writeFileSync(path("prompt.txt"), text);
  const built = await run([
    "build",
    "--input-file",
    path("prompt.txt"),
    "-c",
    checkpoint,
    "-o",
    path("two.npy"),
  ]);
  expect(built).toMatchObject({ code: 0, stdout: `${path("two.npy")}\n` });
});
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

function worst(file: string, name: string): number {
  const { promptEmbeddings } = readPromptEmbeddings(file).prompt;
  const expected = toFloat32(readNpy(join(golden, `${name}.npy`)));
  expect(promptEmbeddings.length).toBe(expected.length);
  return promptEmbeddings.reduce((most, x, i) => Math.max(most, Math.abs(x - expected[i]!)), 0);
}

describe("build", () => {
  test("a file, an argument and standard input give the same; it is PyTorch's matrix", async () => {
    expect(worst(path("two.npy"), "two-spans")).toBeLessThanOrEqual(1e-5);
    const whole = readFileSync(path("two.npy"));
    await run(["build", text, "-c", checkpoint, "-o", path("argument.npy")]);
    const piped = await run(["build", "-c", checkpoint, "-o", path("piped.npy")], { input: text });
    expect(piped.stderr).toMatch(/\[56 rows of 32: 2 spans, 137 memory tokens in 35 rows\]/);
    expect(readFileSync(path("argument.npy")).equals(whole)).toBe(true);
    expect(readFileSync(path("piped.npy")).equals(whole)).toBe(true);
  });

  test("a conversation of a file, and --chat with --system", async () => {
    const { messages } = caseOf("chat");
    writeFileSync(path("chat.json"), JSON.stringify(messages));
    const file = await run([
      "build",
      "--messages",
      path("chat.json"),
      "-c",
      checkpoint,
      "-o",
      path("chat.npy"),
    ]);
    expect(file.code).toBe(0);
    expect(worst(path("chat.npy"), "chat")).toBeLessThanOrEqual(1e-5);
    const [system, user] = messages as { content: string }[];
    const flags = ["--chat", "--system", system!.content, "-c", checkpoint, "-o", path("flags.npy")];
    await run(["build", user!.content, ...flags]);
    expect(readFileSync(path("flags.npy")).equals(readFileSync(path("chat.npy")))).toBe(true);
  });

  test("--json says what was written; safetensors keep it", async () => {
    const out = path("two.safetensors");
    const { stdout, code } = await run([
      "build",
      text,
      "-c",
      checkpoint,
      "-o",
      out,
      "--json",
      "--chunk-size",
      "4",
    ]);
    expect(code).toBe(0);
    const said = JSON.parse(stdout) as { provenance: object; spans: object[] };
    expect(said).toMatchObject({ file: out, shape: [56, 32], tokens: caseOf("two-spans").tokens });
    expect(said.spans).toEqual([
      { start: 7, end: 40, tokens: 132 },
      { start: 46, end: 48, tokens: 5 },
    ]);
    expect(said.provenance).toMatchObject({
      ...{ chunk_size: "4", pooling: "marker", checkpoint: "checkpoint", embedder_dtype: "float32" },
    });
    expect(readPromptEmbeddings(out).provenance).toEqual(said.provenance);
  });

  test.each<[string, string[], number, string]>([
    ["another chunk size", ["x", "-c", checkpoint, "--chunk-size", "16"], 4, "ERR_MEMORY_CHUNK_SIZE"],
    ["no checkpoint", ["x", "-c", golden], 4, "ERR_MEMORY_CHECKPOINT"],
    ["an unclosed span", ["<|memory_start|>x", "-c", checkpoint], 4, "ERR_MEMORY_UNCLOSED"],
    ["a placeholder by hand", ["<|memory|>", "-c", checkpoint], 4, "ERR_MEMORY_COUNT"],
    ["another ending", ["x", "-c", checkpoint, "-o", "x.bin"], 4, "ERR_PROMPT_EMBEDS_FILE"],
    ["no file", ["--input-file", "/no/such/file", "-c", checkpoint], 4, "ERR_FILE_UNREADABLE"],
    ["two prompts", ["x", "--input-file", "y", "-c", checkpoint], 2, "expected one of"],
    ["--system without --chat", ["x", "--system", "y", "-c", checkpoint], 2, "--chat"],
    ["no --checkpoint", ["x"], 2, "required option"],
    ["no chunks of zero", ["x", "-c", checkpoint, "--chunk-size", "0"], 2, "integer from 1"],
  ])("%s: exit code and reason, nothing written", async (_name, args, code, reason) => {
    const out = args.includes("-o") ? [] : ["-o", path("refused.npy")];
    const result = await run(["build", ...args, ...out]);
    expect(result).toMatchObject({ code, stdout: "" });
    expect(result.stderr).toContain(reason);
    expect(existsSync(path("refused.npy"))).toBe(false);
  });
});

describe("generate", () => {
  const greedy = ["-t", "0", "-n", "12", "--ignore-eos", "--json"];
  const tokensOf = (stdout: string) => (JSON.parse(stdout) as { tokens: number[] }).tokens;

  test("from a file and from a text: PyTorch's greedy tokens", async () => {
    const expected = caseOf("two-spans").greedy;
    const file = await run(["generate", "-e", path("two.npy"), "-c", checkpoint, ...greedy]);
    expect(tokensOf(file.stdout)).toEqual(expected);
    const onTheSpot = await run(["generate", text, "-c", checkpoint, ...greedy]);
    expect(tokensOf(onTheSpot.stdout)).toEqual(expected);
    const other = await run(["generate", "-e", path("two.npy"), "-m", join(checkpoint, "llm"), ...greedy]);
    expect(tokensOf(other.stdout)).toEqual(expected);
  });

  test("embeddings of another width are refused", async () => {
    const { stderr, code } = await run([
      "generate",
      "-e",
      path("two.npy"),
      "-m",
      join(checkpoint, "embedder"),
    ]);
    expect(code).toBe(2);
    expect(stderr).toContain("ERR_EMBEDDING_SHAPE");
  });

  test.each<[string[], string]>([
    [["-e", "a.npy"], "one of --checkpoint and --model"],
    [["-e", "a.npy", "-c", "x", "-m", "y"], "one of --checkpoint and --model"],
    [["text", "-e", "a.npy", "-c", "x"], "either --embeddings or a text"],
    [["text"], "--checkpoint for a text"],
  ])("%j is a usage error", async (args, reason) => {
    const { stderr, code } = await run(["generate", ...args]);
    expect(code).toBe(2);
    expect(stderr).toContain(reason);
  });
});

describe("run", () => {
  test("a line an answer, in order; a sample is drawn by the seed", async () => {
    const examples = ["the river", "the hill", "a lamp", "the bridge"].map((code) => ({
      code,
      prompt: "<|memory|>?",
    }));
    writeFileSync(path("tests.json"), JSON.stringify({ examples }));
    const out = path("answers.jsonl");
    const args = ["run", path("tests.json"), "-c", checkpoint, "-n", "4", "-o", out, "--batch", "3"];
    expect(await run(args)).toMatchObject({ code: 0, stdout: `${out}\n` });
    const lines = () => readFileSync(out, "utf8").trimEnd().split("\n");
    const first = lines().map(
      (line) => JSON.parse(line) as { index: number; tokens: number[]; seed: number },
    );
    expect(first.map((one) => one.index)).toEqual([0, 1, 2, 3]);
    expect(first.map((one) => one.seed)).toEqual([42, 43, 44, 45]);
    // Alone or in a batch, an example's answer is the same.
    const sampled = await run([
      "run",
      path("tests.json"),
      "-c",
      checkpoint,
      "-n",
      "4",
      "--num-examples",
      "2",
      "--json",
    ]);
    const drawn = sampled.stdout
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as (typeof first)[0]);
    // random.seed(42); random.sample(range(4), 2) of CPython.
    expect(drawn.map((one) => one.index)).toEqual([0, 3]);
    for (const one of drawn) expect(one.tokens).toEqual(first[one.index]!.tokens);
  });

  test.each<[string, string]>([
    ["{", "ERR_MEMORY_EXAMPLES"],
    ['{"examples":[{"code":"x"}]}', "examples[0]"],
    ['[{"code":"<|memory_start|>","prompt":"<|memory|>"}]', "ERR_MEMORY_NESTED"],
  ])("%s on standard input is refused", async (input, reason) => {
    const { stderr, code } = await run(["run", "-", "-c", checkpoint], { input });
    expect(code).toBe(4);
    expect(stderr).toContain(reason);
  });
});

describe("send", () => {
  let server: Server;
  let url: string;
  const bodies: string[] = [];
  let status = 200;

  beforeAll(async () => {
    server = createServer((request, response) => {
      let body = "";
      request.setEncoding("utf8").on("data", (part: string) => {
        body += part;
      });
      request.on("end", () => {
        bodies.push(JSON.stringify({ path: request.url, key: request.headers.authorization ?? null }), body);
        response
          .writeHead(status)
          .end(JSON.stringify({ choices: [{ text: "an answer", finish_reason: "stop" }] }));
      });
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`;
  });
  afterAll(() => server.close());

  test("the dry run prints exactly what is sent then, without the key", async () => {
    bodies.length = 0;
    const args = ["send", path("two.npy"), "-m", "llm", "--url", url, "-n", "7", "--body", '{"top_k":3}'];
    const env = { VLLM_API_KEY: "secret" };
    const dry = await run([...args, "--dry-run"], { env });
    expect(dry.code).toBe(0);
    expect(bodies).toEqual([]);
    expect(dry.stdout).not.toContain("secret");
    const sent = await run(args, { env });
    expect(sent).toMatchObject({ code: 0, stdout: "an answer\n" });
    expect(JSON.parse(bodies[0]!)).toEqual({ path: "/v1/completions", key: "Bearer secret" });
    const shown = JSON.parse(dry.stdout) as { body: object; url: string };
    expect(JSON.stringify(shown.body)).toBe(bodies[1]);
    const { prompt } = readPromptEmbeddings(path("two.npy"));
    expect(shown).toMatchObject({
      url: `${url}/completions`,
      headers: { authorization: "Bearer <key>" },
      body: { model: "llm", prompt: "", prompt_embeds: encodePromptEmbeds(prompt), max_tokens: 7, top_k: 3 },
    });
  });

  test("the chat forms", async () => {
    for (const [api, type] of [
      ["chat", "prompt_embeds"],
      ["embedding", "embedding"],
    ] as const) {
      bodies.length = 0;
      const result = await run([
        "send",
        path("two.npy"),
        "-m",
        "llm",
        "--url",
        url,
        "--api",
        api,
        "--after",
        "What?",
      ]);
      expect(result.code).toBe(0);
      expect(result.stderr.includes("fim_pad")).toBe(api === "embedding");
      const { messages } = JSON.parse(bodies[1]!) as { messages: { content: { type: string }[] }[] };
      expect(messages[0]!.content.map((part) => part.type)).toEqual([type, "text"]);
    }
  });

  test("a server that fails: exit code 1 and its status", async () => {
    status = 500;
    const args = ["send", path("two.npy"), "-m", "llm", "--url", url, "--tries", "1", "--json"];
    const { code, stdout, stderr } = await run(args);
    status = 200;
    expect(code).toBe(1);
    expect(stderr).toContain("ERR_ENDPOINT_STATUS");
    expect(JSON.parse(stdout)).toMatchObject({
      error: { code: "ERR_ENDPOINT_STATUS", details: { status: 500 } },
    });
  });

  test.each<[string, string[], number, string]>([
    ["no address", ["--url", "localhost"], 2, "ERR_ARGUMENT_TYPE"],
    ["text for completions", ["--after", "x"], 2, "whole prompt"],
    ["a body that is no object", ["--body", "[1]"], 2, "JSON object"],
  ])("%s: refused before anything is sent", async (_name, args, code, reason) => {
    bodies.length = 0;
    const result = await run(["send", path("two.npy"), "-m", "llm", "--url", url, ...args]);
    expect(result.code).toBe(code);
    expect(result.stderr).toContain(reason);
    expect(bodies).toEqual([]);
  });

  test("a hostile file is refused, not unpickled", async () => {
    const hostile = fileURLToPath(new URL("../golden/formats/hostile.pt", import.meta.url));
    const { stderr, code } = await run(["send", hostile, "-m", "llm", "--url", url]);
    expect(code).toBe(4);
    expect(stderr).toContain("ERR_TORCH_SAVE");
  });
});
