// SPDX-License-Identifier: Apache-2.0
// Compressed prompts against PyTorch: the tiny checkpoint of tests/golden/memory, made with its answers by
// scripts/py/make_memory_fixture.py.

import { cpSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { readNpy } from "../../src/formats/npy.ts";
import { toFloat32 } from "../../src/formats/tensor.ts";
import { PromptCompressor } from "../../src/memory/compressor.ts";
import { capturedTokenRows, storedTokenRows } from "../../src/memory/token-rows.ts";
import type { ChatMessage } from "../../src/model/chat-template.ts";
import { loadTokenizer } from "../../src/model/load-tokenizer.ts";
import { SteerModel } from "../../src/model/steer-model.ts";
import { worst } from "./converted-model.ts";

const golden = fileURLToPath(new URL("../golden/memory", import.meta.url));
const checkpoint = join(golden, "checkpoint");

interface Case {
  name: string;
  text?: string;
  messages?: ChatMessage[];
  tokens: number[];
  spanTokens: number[];
  greedy: number[];
}
const cases = (JSON.parse(readFileSync(join(golden, "expected.json"), "utf8")) as { cases: Case[] }).cases;
const caseOf = (name: string) => cases.find((one) => one.name === name)!;
const promptOf = (one: Case) => one.text ?? one.messages!;
const matrixOf = (name: string) => readNpy(join(golden, `${name}.npy`));

let scratch: string;
let compressor: PromptCompressor;
let model: SteerModel;

beforeAll(async () => {
  scratch = mkdtempSync(join(tmpdir(), "memory-"));
  process.env.CHATSPACE_CACHE = join(scratch, "cache");
  compressor = await PromptCompressor.load(checkpoint, { device: "cpu", threads: 2 });
  model = await SteerModel.load(compressor.modelPath, { device: "cpu", threads: 2 });
});
afterAll(async () => {
  await compressor?.dispose();
  await model?.dispose();
  rmSync(scratch, { recursive: true, force: true });
});

describe("against PyTorch", () => {
  test.each(cases.map((one) => [one.name, one] as const))("%s: rows within 1e-5", async (name, one) => {
    const { prompt, tokens, spans } = await compressor.compress(promptOf(one));
    const expected = matrixOf(name);
    expect([...tokens]).toEqual(one.tokens);
    expect(spans.map((span) => span.tokens)).toEqual(one.spanTokens);
    expect(prompt.shape).toEqual(expected.shape);
    const { value, index } = worst(prompt.promptEmbeddings, toFloat32(expected));
    console.info(`${name}: [${prompt.shape}], worst deviation ${value.toExponential(2)} at ${index}`);
    expect(value).toBeLessThanOrEqual(1e-5);
  });

  test.each(cases.map((one) => [one.name, one] as const))(
    "%s: the same greedy tokens",
    async (_name, one) => {
      const { prompt } = await compressor.compress(promptOf(one));
      const { tokens } = await model.generate(prompt, { maxTokens: one.greedy.length, ignoreEos: true });
      expect([...tokens]).toEqual(one.greedy);
    },
  );
});

describe("prompts of embeddings in one model", () => {
  // Their token ids are all the same; what the engine keeps of one prompt must not serve another.
  test("of one length and other rows: each gets its own answer, first, again and at once", async () => {
    const texts = ["the river rose", "every house on", "the lamp lit a", "the river rose"];
    const spans = texts.map((text) => `<|memory_start|>${text.repeat(60)}<|memory_end|>`);
    const prompts = await Promise.all(spans.map(async (text) => (await compressor.compress(text)).prompt));
    const length = Math.min(...prompts.map(({ shape }) => shape[0]));
    expect(length).toBeGreaterThan(64);
    const cut = prompts.map(({ promptEmbeddings }) => ({
      promptEmbeddings: promptEmbeddings.slice(0, length * 32),
      shape: [length, 32] as const,
    }));
    const options = { maxTokens: 8, ignoreEos: true };
    const answers: number[][] = [];
    for (const prompt of cut) {
      await using fresh = await SteerModel.load(compressor.modelPath, { device: "cpu", threads: 1 });
      answers.push([...(await fresh.generate(prompt, options)).tokens]);
    }
    expect(answers[0]).toEqual(answers[3]);
    expect(answers[0]).not.toEqual(answers[1]);
    for (const [i, prompt] of cut.entries())
      expect([...(await model.generate(prompt, options)).tokens]).toEqual(answers[i]);
    const together = await model.generate(cut, options);
    expect(together.map(({ tokens }) => [...tokens])).toEqual(answers);
  });
});

describe("the language model's own rows", () => {
  test("read from the file and captured from the model, they are the same bits", async () => {
    const stored = storedTokenRows(join(checkpoint, "llm"))!;
    const tokens = Int32Array.from(caseOf("two-spans").tokens);
    const direct = await stored.rows(tokens);
    const captured = await capturedTokenRows(model).rows(tokens);
    expect(direct).toEqual(captured);
  });

  test("an id beyond the vocabulary is refused", async () => {
    const stored = storedTokenRows(join(checkpoint, "llm"))!;
    await expect(stored.rows(Int32Array.of(300))).rejects.toThrowError(
      expect.objectContaining({ code: "ERR_TOKEN_RANGE" }),
    );
  });

  test("an archive in llm/ and embedder/ gives what the folders give", async () => {
    const { convert } = await import("../../src/model/convert.ts");
    const folder = join(scratch, "archives");
    cpSync(checkpoint, folder, { recursive: true });
    for (const part of ["llm", "embedder"]) await convert(join(folder, part), join(folder, part, "model.pt"));
    await using archived = await PromptCompressor.load(folder, { device: "cpu", threads: 2 });
    expect(archived.modelPath).toBe(join(folder, "llm/model.pt"));
    const one = caseOf("chat");
    const [a, b] = await Promise.all([archived.compress(promptOf(one)), compressor.compress(promptOf(one))]);
    expect(a.prompt.promptEmbeddings).toEqual(b.prompt.promptEmbeddings);
  });
});

describe("spans", () => {
  test("an empty span is one row, the model's own of the placeholder", async () => {
    const { prompt, spans } = await compressor.compress(caseOf("empty").text!);
    expect(spans[0]).toMatchObject({ tokens: 0 });
    expect(spans[0]!.end - spans[0]!.start).toBe(1);
    const tokenizer = await loadTokenizer(join(checkpoint, "llm"));
    const placeholder = Int32Array.of(tokenizer.idOf("<|memory|>")!);
    const own = await storedTokenRows(join(checkpoint, "llm"))!.rows(placeholder);
    const { start } = spans[0]!;
    expect(prompt.promptEmbeddings.slice(start * 32, (start + 1) * 32)).toEqual(own);
  });

  test("equal spans give equal rows, whatever stands around them", async () => {
    const { prompt, spans } = await compressor.compress(caseOf("same-twice").text!);
    const rows = spans.map(({ start, end }) => prompt.promptEmbeddings.slice(start * 32, end * 32));
    expect(rows[0]).toEqual(rows[1]);
    expect(rows[2]).not.toEqual(rows[0]);
  });

  test.each([
    ["nested", "a<|memory_start|>b<|memory_start|>c<|memory_end|>d<|memory_end|>", "ERR_MEMORY_NESTED"],
    ["unclosed", "a<|memory_start|>b", "ERR_MEMORY_UNCLOSED"],
    ["unopened", "a<|memory_end|>b", "ERR_MEMORY_UNOPENED"],
    ["a placeholder written by hand", "a<|memory|>b<|memory_start|>c<|memory_end|>", "ERR_MEMORY_COUNT"],
  ])("%s: refused", async (_name, text, code) => {
    await expect(compressor.compress(text)).rejects.toThrowError(expect.objectContaining({ code }));
  });

  test("a mismatch names both counts", async () => {
    const text = "<|memory|><|memory|><|memory_start|>abcdefgh<|memory_end|>";
    await expect(compressor.compress(text)).rejects.toThrowError(/expected 2 placeholders .*got 4/);
    await expect(compressor.compress(text)).rejects.toMatchObject({
      details: { chunks: 2, placeholders: 4, spans: 1 },
    });
  });

  test("a template that drops a message is a mismatch, not a shorter prompt", async () => {
    const folder = join(scratch, "dropping");
    cpSync(checkpoint, folder, { recursive: true });
    writeFileSync(join(folder, "llm/chat_template.jinja"), "{{ messages[-1].content }}");
    await using dropping = await PromptCompressor.load(folder, { device: "cpu", threads: 2 });
    const span = "<|memory_start|>abcd<|memory_end|>";
    const messages = [
      { role: "system", content: span },
      { role: "user", content: "b" },
    ];
    await expect(dropping.compress(messages)).rejects.toThrowError(/expected 1 placeholders .*got 0/);
  });

  test("a span over two messages is refused with its message", async () => {
    const messages = [
      { role: "user", content: "<|memory_start|>a" },
      { role: "user", content: "b<|memory_end|>" },
    ];
    await expect(compressor.compress(messages)).rejects.toThrowError(/messages\[0\]/);
  });

  test("what a template would trim away stays in a memory", async () => {
    const folder = join(scratch, "trimming");
    cpSync(checkpoint, folder, { recursive: true });
    writeFileSync(
      join(folder, "llm/chat_template.jinja"),
      "{% for m in messages %}{{ m.content.split('</think>')[-1] }}{% endfor %}",
    );
    await using trimming = await PromptCompressor.load(folder, { device: "cpu", threads: 2 });
    const memory = "<|memory_start|>one</think>two<|memory_end|>";
    const { prompt } = await trimming.compress([{ role: "assistant", content: memory }]);
    expect(prompt).toEqual((await compressor.compress(memory)).prompt);
  });
});

describe("batches", () => {
  test("the token budget changes the batches, not the result", async () => {
    const one = caseOf("two-spans");
    const { prompt } = await compressor.compress(one.text!);
    for (const tokenBudget of [1, 7, 40]) {
      await using other = await PromptCompressor.load(checkpoint, { device: "cpu", threads: 1, tokenBudget });
      const { value } = worst(
        (await other.compress(one.text!)).prompt.promptEmbeddings,
        prompt.promptEmbeddings,
      );
      console.info(`budget ${tokenBudget}: worst deviation ${value.toExponential(2)}`);
      expect(value).toBeLessThanOrEqual(1e-6);
    }
  });

  test("many prompts at once give what each gives alone", async () => {
    const alone: Float32Array[] = [];
    for (const one of cases) alone.push((await compressor.compress(promptOf(one))).prompt.promptEmbeddings);
    const together = await Promise.all(cases.map((one) => compressor.compress(promptOf(one))));
    together.forEach(({ prompt }, i) => {
      expect(worst(prompt.promptEmbeddings, alone[i]!).value).toBeLessThanOrEqual(1e-6);
    });
  });

  test("a signal is listened to by many runs without a warning of a leak", async () => {
    const warnings: string[] = [];
    const onWarning = (warning: Error) => warnings.push(warning.name);
    process.on("warning", onWarning);
    const { signal } = new AbortController();
    await compressor.compress(caseOf("two-spans").text!, { signal });
    await new Promise((resolve) => setTimeout(resolve, 20));
    process.off("warning", onWarning);
    expect(warnings).toEqual([]);
  });

  test("half precision is asked for, never taken", async () => {
    const text = caseOf("two-spans").text!;
    const { prompt } = await compressor.compress(text);
    const deviation = async (dtype: "float32" | "bfloat16") => {
      await using other = await PromptCompressor.load(checkpoint, { device: "cpu", threads: 1, dtype });
      return worst((await other.compress(text)).prompt.promptEmbeddings, prompt.promptEmbeddings).value;
    };
    expect(await deviation("float32")).toBe(0);
    expect(await deviation("bfloat16")).toBeGreaterThan(1e-4);
  });

  test("an aborted signal ends it with its reason", async () => {
    const reason = new Error("enough");
    const signal = AbortSignal.abort(reason);
    await expect(compressor.compress("x", { signal })).rejects.toBe(reason);
  });
});

describe("the checkpoint", () => {
  test("defect 10: a chunk size that contradicts it is refused before anything is loaded", async () => {
    await expect(PromptCompressor.load(checkpoint, { chunkSize: 16 })).rejects.toMatchObject({
      code: "ERR_MEMORY_CHUNK_SIZE",
      message: expect.stringMatching(/checkpoint, 4, got 16/),
    });
  });

  test("without a record the size has to be given, and then makes the same rows", async () => {
    const folder = join(scratch, "unrecorded/checkpoint_12");
    cpSync(checkpoint, folder, { recursive: true });
    rmSync(join(folder, "chatspace.json"));
    const parent = join(scratch, "unrecorded");
    await expect(PromptCompressor.load(parent)).rejects.toMatchObject({ code: "ERR_MEMORY_CHUNK_SIZE" });
    await using given = await PromptCompressor.load(parent, { chunkSize: 4, device: "cpu", threads: 2 });
    expect(given.recorded).toBe(false);
    const one = caseOf("unicode");
    expect((await given.compress(one.text!)).prompt).toEqual((await compressor.compress(one.text!)).prompt);
  });

  test("parts of other sizes, adapters and absent folders are named", async () => {
    const folder = join(scratch, "parts");
    cpSync(checkpoint, folder, { recursive: true });
    const settings = { compressedPrompt: { version: 1, chunkSize: 4, projector: [16, 64, 32] } };
    writeFileSync(join(folder, "chatspace.json"), JSON.stringify(settings));
    const refused = { code: "ERR_MEMORY_CHECKPOINT" };
    await expect(PromptCompressor.load(folder)).rejects.toMatchObject({
      ...refused,
      message: expect.stringMatching(/16 -> 64 -> 32, got 16 -> 32 -> 32/),
    });
    cpSync(join(checkpoint, "chatspace.json"), join(folder, "chatspace.json"));
    rmSync(join(folder, "embedder"), { recursive: true });
    cpSync(join(folder, "llm"), join(folder, "embedder"), { recursive: true });
    await expect(PromptCompressor.load(folder, { device: "cpu" })).rejects.toMatchObject({
      ...refused,
      message: expect.stringMatching(/width of embedder\/ of 16.*got 32/),
    });
    writeFileSync(join(folder, "embedder/adapter_config.json"), "{}");
    await expect(PromptCompressor.load(folder)).rejects.toThrowError(/merge_and_unload/);
    renameSync(join(folder, "projectors"), join(folder, "projector"));
    await expect(PromptCompressor.load(folder)).rejects.toThrowError(/got no projectors/);
  });

  test("a tokenizer without the memory tokens is refused", async () => {
    const folder = join(scratch, "tokenless");
    cpSync(checkpoint, folder, { recursive: true });
    cpSync(join(folder, "embedder/tokenizer.json"), join(folder, "llm/tokenizer.json"));
    await expect(PromptCompressor.load(folder)).rejects.toMatchObject({ code: "ERR_MEMORY_TOKEN" });
  });

  test("disposed, it says so", async () => {
    const other = await PromptCompressor.load(checkpoint, { device: "cpu", threads: 1 });
    await other.dispose();
    await other.dispose();
    await expect(other.compress("x")).rejects.toMatchObject({ code: "ERR_DISPOSED" });
  });
});

describe("pooling of windows", () => {
  async function load(name: string, compressedPrompt: object): Promise<PromptCompressor> {
    const folder = join(scratch, name);
    cpSync(checkpoint, folder, { recursive: true });
    writeFileSync(join(folder, "chatspace.json"), JSON.stringify({ compressedPrompt }));
    return PromptCompressor.load(folder, { device: "cpu", threads: 2 });
  }

  test.each(["mean", "last"])("%s: a window of one chunk equals the chunk alone", async (pooling) => {
    const common = { version: 1, chunkSize: 4, pooling };
    await using alone = await load(`${pooling}-4`, common);
    await using windowed = await load(`${pooling}-12`, { ...common, window: 12 });
    const text = caseOf("two-spans").text!;
    const [a, b] = await Promise.all([alone.compress(text), windowed.compress(text)]);
    expect(a.spans).toEqual(b.spans);
    const row = (compressed: typeof a, chunk: number) => {
      const at = (compressed.spans[0]!.start + chunk) * 32;
      return compressed.prompt.promptEmbeddings.slice(at, at + 32);
    };
    // Causal: the first chunk of each window sees itself alone, the second one sees the first too.
    expect(worst(row(a, 0), row(b, 0)).value).toBeLessThanOrEqual(1e-5);
    expect(worst(row(a, 3), row(b, 3)).value).toBeLessThanOrEqual(1e-5);
    expect(worst(row(a, 1), row(b, 1)).value).toBeGreaterThan(1e-2);
  });
});
