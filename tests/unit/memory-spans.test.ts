// SPDX-License-Identifier: Apache-2.0
// Memory spans, their chunks and placeholders, and the settings of a checkpoint: what each way of getting
// them wrong says.
import { describe, expect, test } from "vitest";
import { chunkRuns, planTokenBatches, poolGroups, rowsOf } from "../../src/memory/chunk-encoder.ts";
import { parseExamples, sampleExamples } from "../../src/memory/examples.ts";
import { locatePlaceholders } from "../../src/memory/placeholders.ts";
import { compressionSettings } from "../../src/memory/settings.ts";
import { expandSegments, parseMemorySpans } from "../../src/memory/spans.ts";

const [S, E, M] = ["<|memory_start|>", "<|memory_end|>", "<|memory|>"];
const code = (name: string) => expect.objectContaining({ code: name });

describe("parsing by position", () => {
  test("text and spans in order, with their offsets", () => {
    expect(parseMemorySpans(`a${S}b${E}${S}b${E}c`)).toEqual([
      { kind: "text", text: "a", offset: 0 },
      { kind: "memory", text: "b", offset: 17 },
      { kind: "memory", text: "b", offset: 48 },
      { kind: "text", text: "c", offset: 63 },
    ]);
    expect(parseMemorySpans("")).toEqual([]);
    expect(parseMemorySpans(`${S}${E}`)).toEqual([{ kind: "memory", text: "", offset: 16 }]);
  });

  test("equal spans get their own placeholders, in their own places", () => {
    const segments = parseMemorySpans(`${S}x${E} ${S}x${E}`);
    expect(expandSegments(segments, [1, 3])).toBe(`${S}${M}${E} ${S}${M}${M}${M}${E}`);
  });

  test("newlines, half markers and placeholders inside a span are its text", () => {
    const inside = `\n<|memory_star|> ${M} <|memory_end|\n`;
    expect(parseMemorySpans(`${S}${inside}${E}`)[0]).toMatchObject({ kind: "memory", text: inside });
  });

  test.each([
    [`a${S}b${S}c${E}d${E}`, "ERR_MEMORY_NESTED", 1 + 16 + 1],
    [`${S}${S}`, "ERR_MEMORY_NESTED", 16],
    [`a${S}b`, "ERR_MEMORY_UNCLOSED", 1],
    [`${S}a${E}${S}`, "ERR_MEMORY_UNCLOSED", 31],
    [`a${E}`, "ERR_MEMORY_UNOPENED", 1],
    [`${S}a${E}b${E}`, "ERR_MEMORY_UNOPENED", 32],
    [`${E}${S}`, "ERR_MEMORY_UNOPENED", 0],
  ])("%s is refused with its offset", (text, name, offset) => {
    try {
      parseMemorySpans(text, "messages[3]");
    } catch (error) {
      expect(error).toMatchObject({ code: name, details: { where: "messages[3]", offset } });
      expect((error as Error).message).toMatch(/^messages\[3\]: expected .* got .* \(near /);
      return;
    }
    throw new Error("was accepted");
  });

  test("random mixtures: either an error with a code, or pieces that make the text again", () => {
    const pieces = [S, E, M, "a", " ", "\n", "<|", "memory", "🙂"];
    let state = 7;
    let parsed = 0;
    for (let round = 0; round < 5000; round++) {
      let text = "";
      for (let i = 0; i < round % 9; i++) {
        state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
        text += pieces[(state >>> 8) % pieces.length];
      }
      try {
        const segments = parseMemorySpans(text);
        const again = segments.map((s) => (s.kind === "text" ? s.text : S + s.text + E)).join("");
        expect(again).toBe(text);
        for (const s of segments) expect(text.slice(s.offset, s.offset + s.text.length)).toBe(s.text);
        parsed++;
      } catch (error) {
        expect((error as { code?: string }).code).toMatch(/^ERR_MEMORY_(NESTED|UNCLOSED|UNOPENED)$/);
      }
    }
    expect(parsed).toBeGreaterThan(1000);
  });
});

describe("chunks", () => {
  const tokens = Int32Array.from({ length: 10 }, (_, i) => i);

  test("every token once, the last chunk shorter, an empty span one row", () => {
    const runs = chunkRuns(tokens, { chunkSize: 4, window: 4 }, null);
    expect(runs.map((run) => [...run.tokens])).toEqual([
      [0, 1, 2, 3],
      [4, 5, 6, 7],
      [8, 9],
    ]);
    expect([0, 1, 4, 5, 8].map((count) => rowsOf(count, 4))).toEqual([1, 1, 1, 2, 2]);
    expect(chunkRuns(new Int32Array(0), { chunkSize: 4, window: 4 }, 9)).toEqual([]);
  });

  test("a marker goes behind each chunk and is the row that is read", () => {
    const runs = chunkRuns(tokens, { chunkSize: 4, window: 4 }, 99);
    expect(runs.map((run) => [...run.tokens])).toEqual([
      [0, 1, 2, 3, 99],
      [4, 5, 6, 7, 99],
      [8, 9, 99],
    ]);
    expect(runs.map((run) => run.groups)).toEqual([[[4, 5]], [[4, 5]], [[2, 3]]]);
  });

  test("a window holds several chunks", () => {
    const runs = chunkRuns(tokens, { chunkSize: 2, window: 6 }, null);
    expect(runs.map((run) => run.groups)).toEqual([
      [
        [0, 2],
        [2, 4],
        [4, 6],
      ],
      [
        [0, 2],
        [2, 4],
      ],
    ]);
    const rows = Float32Array.from([1, 2, 3, 4, 5, 60]);
    expect([
      ...poolGroups(
        rows,
        2,
        [
          [0, 2],
          [2, 3],
        ],
        "mean",
      ),
    ]).toEqual([2, 3, 5, 60]);
    expect([
      ...poolGroups(
        rows,
        2,
        [
          [0, 2],
          [2, 3],
        ],
        "last",
      ),
    ]).toEqual([3, 4, 5, 60]);
  });

  test("batches keep the order and the budget; a longer run is alone", () => {
    const runs = [3, 3, 3, 9, 1].map((length) => ({ tokens: new Int32Array(length), groups: [] }));
    const lengths = (budget: number) =>
      planTokenBatches(runs, budget).map((batch) => batch.map((run) => run.tokens.length));
    expect(lengths(6)).toEqual([[3, 3], [3], [9], [1]]);
    expect(lengths(100)).toEqual([[3, 3, 3, 9, 1]]);
    expect(planTokenBatches([], 6)).toEqual([]);
  });
});

describe("placeholders", () => {
  const ids = { start: 1, end: 2, memory: 3 };

  test("rows of each span", () => {
    expect(locatePlaceholders(Int32Array.of(9, 1, 3, 3, 2, 1, 3, 2), [2, 1], ids)).toEqual([
      [2, 4],
      [6, 7],
    ]);
  });

  test.each([
    ["one too many", [1, 3, 3, 2], [1], /expected 1 placeholders .*got 2/],
    ["one too few", [1, 3, 2], [2], /expected 2 placeholders .*got 1/],
    ["by hand outside a span", [3, 1, 3, 2], [1], /expected 1 placeholders .*got 2/],
    ["moved from one span to the other", [1, 3, 2, 1, 3, 3, 2], [2, 1], /span 0 has 1 of 2/],
    ["something between them", [1, 3, 7, 3, 2], [2], /span 0 has 1 of 2/],
    ["a span that is not there", [1, 3, 2], [1, 0], /got 1 in 1 spans/],
    ["a start by hand", [1, 1, 3, 2], [1], /span 0 has 0 of 1/],
  ])("%s: both counts", (_name, tokens, counts, message) => {
    expect(() => locatePlaceholders(Int32Array.from(tokens), counts, ids)).toThrowError(message);
    expect(() => locatePlaceholders(Int32Array.from(tokens), counts, ids)).toThrowError(
      code("ERR_MEMORY_COUNT"),
    );
  });
});

describe("settings", () => {
  const read = (recorded: object | null, given?: number) =>
    compressionSettings(
      "chatspace.json",
      recorded === null ? null : { version: 1, chunkSize: 16, ...recorded },
      given,
    );

  test("defaults are those of Code-LLaVA", () => {
    const same = {
      chunkSize: 16,
      window: 16,
      pooling: "marker",
      marker: null,
      site: "final",
      eps: 1e-6,
      projector: null,
    };
    expect(read({})).toEqual(same);
    expect(read({}, 16)).toEqual(same);
    expect(read(null, 16)).toEqual(same);
  });

  test("a contradiction and an absence are errors", () => {
    expect(() => read({}, 32)).toThrowError(/expected the chunk size of the checkpoint, 16, got 32/);
    expect(() => read({}, 32)).toThrowError(code("ERR_MEMORY_CHUNK_SIZE"));
    expect(() => read(null)).toThrowError(code("ERR_MEMORY_CHUNK_SIZE"));
  });

  test.each([
    [{ chunkSize: 0 }, /chunkSize as an integer from 1/],
    [{ chunkSize: "16" }, /got "16"/],
    [{ chunksize: 16 }, /chunkSize/],
    [{ version: 2 }, /version 1/],
    [{ pooling: "max" }, /pooling among/],
    [{ pooling: "mean", window: 24 }, /multiple of chunkSize 16/],
    [{ window: 32 }, /window of one chunk/],
    [{ marker: 5 }, /marker as a string/],
    [{ eps: 0 }, /eps/],
    [{ projector: [1, 2] }, /projector as/],
  ])("%j is refused", (recorded, message) => {
    expect(() => read(recorded)).toThrowError(message);
    expect(() => read(recorded)).toThrowError(code("ERR_MEMORY_CHECKPOINT"));
  });
});

describe("test prompts", () => {
  const parse = (value: unknown, chat = true) =>
    parseExamples(typeof value === "string" ? value : JSON.stringify(value), { file: "t.json", chat });

  test("code goes where <|memory|> stands, or to the end; replacement patterns are text", () => {
    const examples = parse({
      examples: [
        { code: " $& $1 ", prompt: ` ${M} what? ` },
        { code: "x", prompt: "what?" },
        { text: `raw ${S}y${E}` },
        { messages: [{ role: "user", content: "z" }] },
      ],
    });
    expect(examples.map((one) => one.prompt)).toEqual([
      [{ role: "user", content: `${S}$& $1${E} what?` }],
      [{ role: "user", content: `what? ${S}x${E}` }],
      `raw ${S}y${E}`,
      [{ role: "user", content: "z" }],
    ]);
    expect(parse([{ code: "x", prompt: M }], false)[0]!.prompt).toBe(
      `<|im_start|>user\n${S}x${E}<|im_end|>\n<|im_start|>assistant\n`,
    );
  });

  test.each([
    ["{", /expected JSON/],
    [{}, /a list, or an object/],
    [{ examples: [] }, /a list, or an object/],
    [[{ code: "x" }], /examples\[0\]: expected `code` and `prompt`/],
    [[{ text: "a" }, null], /examples\[1\]/],
  ])("%j is refused", (value, message) => {
    expect(() => parse(value)).toThrowError(message);
    expect(() => parse(value)).toThrowError(code("ERR_MEMORY_EXAMPLES"));
  });

  test("a code with a marker in it is named with its example", () => {
    const examples = [{ text: "a" }, { code: `b${S}`, prompt: M }];
    expect(() => parse(examples)).toThrowError(/examples\[1\]\.messages\[0\]/);
    expect(() => parse(examples)).toThrowError(code("ERR_MEMORY_NESTED"));
  });

  test("a sample is the one Python draws", () => {
    // random.seed(42); random.sample(range(10), 3) of CPython.
    const examples = Array.from({ length: 10 }, (_, index) => ({ index, prompt: `${index}` }));
    expect(sampleExamples(examples, 3, 42).map((one) => one.index)).toEqual([1, 0, 4]);
    expect(sampleExamples(examples, 50, 42)).toEqual(examples);
  });
});
