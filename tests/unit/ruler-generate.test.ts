// SPDX-License-Identifier: Apache-2.0
// What users type wrongly, lengths too short to fill, and everything that runs with nothing fetched.
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { openHaystacks } from "../../src/ruler/data/haystacks.ts";
import { PairedWords } from "../../src/ruler/data/words.ts";
import { type GenerateOptions, generateRows, leastLength, rowLine } from "../../src/ruler/generate.ts";
import { lengthName, parseLength, prepareTasks } from "../../src/ruler/prepare.ts";
import { NumpyRandom } from "../../src/ruler/random/numpy.ts";
import { PythonRandom } from "../../src/ruler/random/python.ts";
import { RULER_TASKS, selectTasks } from "../../src/ruler/tasks/table.ts";
import { selectTokenizer } from "../../src/ruler/tokens/select.ts";

const data = openHaystacks();
const options = async (more: Partial<GenerateOptions> = {}): Promise<GenerateOptions> => ({
  counter: await selectTokenizer("cl100k_base"),
  ...{ data, length: 4096, samples: 2, ...more },
});
const taskNamed = (name: string) => selectTasks(name)[0]!;

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "ruler-"));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

describe("offline, with built-in text", () => {
  for (const task of RULER_TASKS)
    it(`${task.name} fits its length and holds its answers`, async () => {
      const rows = [...generateRows(task, await options())];
      expect(rows).toHaveLength(2);
      for (const row of rows) {
        expect(row.length).toBeLessThanOrEqual(4096);
        expect(row.length).toBeGreaterThan(task.settings.kind === "qa" ? 2500 : 3000);
        if (task.settings.kind !== "qa")
          for (const answer of row.outputs) expect(row.input).toContain(answer);
      }
      const again = [...generateRows(task, await options())];
      expect(again.map(rowLine)).toEqual(rows.map(rowLine));
    });
});

describe("a task name that does not exist", () => {
  it("is refused with the nearest names", () => {
    expect(() => selectTasks("niah_singel_1")).toThrow(
      expect.objectContaining({ code: "ERR_RULER_TASK", message: expect.stringContaining("niah_single_1") }),
    );
    expect(() => selectTasks("")).toThrow(expect.objectContaining({ code: "ERR_RULER_TASK" }));
    expect(selectTasks("vt, cwe,vt").map((t) => t.name)).toEqual(["vt", "cwe"]);
  });
});

describe("a length too short", () => {
  for (const name of ["niah_single_2", "niah_multikey_3", "vt", "cwe", "fwe", "qa_2"])
    it(`${name} says the least that works, and it does`, async () => {
      const task = taskNamed(name);
      const short = await options({ length: name === "fwe" ? 80 : 256 });
      let least: number | undefined;
      try {
        for (const _ of generateRows(task, short));
      } catch (error) {
        expect(error).toMatchObject({ name: "DataError", code: "ERR_RULER_LENGTH" });
        least = (error as { details: { least: number } }).details.least;
      }
      expect(least).toBeGreaterThan(short.length);
      expect([...generateRows(task, await options({ length: least! }))]).toHaveLength(2);
      expect(leastLength(task, short)).toBe(least);
    });
});

describe("options out of range", () => {
  it("are refused by name", async () => {
    const bad = async (more: Partial<GenerateOptions>) => [
      ...generateRows(taskNamed("vt"), await options(more)),
    ];
    await expect(bad({ length: 0.5 })).rejects.toMatchObject({ code: "ERR_RULER_OPTION" });
    await expect(bad({ samples: 0 })).rejects.toMatchObject({ code: "ERR_RULER_OPTION" });
    await expect(bad({ seed: -1 })).rejects.toMatchObject({ code: "ERR_RULER_OPTION" });
    await expect(bad({ chunkIndex: 2, chunkAmount: 2 })).rejects.toMatchObject({ code: "ERR_RULER_OPTION" });
    await expect(bad({ modelTemplate: "llama" })).rejects.toMatchObject({ code: "ERR_RULER_TEMPLATE" });
    const many = async () => [...generateRows(taskNamed("qa_1"), await options({ samples: 100_000 }))];
    await expect(many()).rejects.toMatchObject({ code: "ERR_RULER_SAMPLES" });
    expect(() => parseLength("4 kilo")).toThrow(expect.objectContaining({ code: "ERR_RULER_OPTION" }));
    expect(["4k", "4096", "0.5k", "128K", "1m"].map(parseLength)).toEqual([4096, 4096, 512, 131072, 1048576]);
    expect([4096, 1000].map(lengthName)).toEqual(["4k", "1000"]);
  });
});

describe("what upstream dies of", () => {
  it("has a code: more needles than lines in the first trial", async () => {
    const task = taskNamed("niah_multikey_2");
    const settings = { ...task.settings, keys: 6 } as typeof task.settings;
    const rows = async () => [...generateRows({ ...task, settings }, await options({ length: 1024 }))];
    await expect(rows()).rejects.toMatchObject({ name: "DataError", code: "ERR_RULER_DRAFT" });
  });

  it("has a code: draws outside the range of the generators", () => {
    expect(() => new NumpyRandom(2 ** 32)).toThrow(expect.objectContaining({ code: "ERR_RULER_SEED" }));
    const random = new PythonRandom(1);
    expect(() => random.randbelow(0)).toThrow(expect.objectContaining({ code: "ERR_RULER_RANDOM_RANGE" }));
    expect(() => random.sampleIndices(3, 4)).toThrow(
      expect.objectContaining({ code: "ERR_RULER_RANDOM_RANGE" }),
    );
  });
});

describe("upstream's other options", () => {
  it("puts a model template around the task, and the example of vt inside it", async () => {
    const more = { modelTemplate: "meta-llama3", samples: 1 };
    const [row] = [...generateRows(taskNamed("vt"), await options(more))];
    expect(row!.input).toMatch(
      /^<\|begin_of_text\|><\|start_header_id\|>user<\|end_header_id\|>\n\nMemorize and/,
    );
    expect(row!.input.match(/Memorize and track/g)).toHaveLength(2);
  });

  it("leaves the template out but pays for it under prepare_for_ns", async () => {
    const more = { modelTemplate: "meta-llama3", samples: 1, prepareForNs: true };
    const [row] = [...generateRows(taskNamed("vt"), await options(more))];
    expect(row!.input).toMatch(/^Memorize and/);
    expect(row!.length_w_model_temp).toBeGreaterThan(row!.length);
    expect(row!.length_w_model_temp).toBeLessThanOrEqual(4096);
  });

  it("writes prompts on one line under remove_newline_tab", async () => {
    const [row] = [...generateRows(taskNamed("niah_single_1"), await options({ removeNewlineTab: true }))];
    expect(row!.input).not.toMatch(/[\n\t]| {2}/);
  });

  it("gives chunks of the questions, one after the other", async () => {
    const all = [...generateRows(taskNamed("qa_1"), await options({ samples: 5 }))];
    const asked = (input: string) => input.slice(input.lastIndexOf("Question:"));
    const chunk = async (chunkIndex: number) => [
      ...generateRows(taskNamed("qa_1"), await options({ samples: 5, chunkAmount: 2, chunkIndex })),
    ];
    const [first, second] = [await chunk(0), await chunk(1)];
    expect([first.length, second.length]).toEqual([3, 2]);
    expect([...first, ...second].map((r) => asked(r.input))).toEqual(all.map((r) => asked(r.input)));
    expect(second.map((r) => r.index)).toEqual([0, 1]);
  });
});

describe("files", () => {
  const prepare = (more: object = {}) =>
    prepareTasks({
      ...{ task: "niah_single_1", tokenizer: "cl100k_base", length: 512, samples: 2, output: folder },
      ...more,
    });

  it("keeps what is there with the same settings, and makes it again where they or the bytes differ", async () => {
    const [made] = await prepare();
    expect((await prepare())[0]).toMatchObject({ kept: true, sha256: made!.sha256 });
    expect((await prepare({ seed: 7 }))[0]!.kept).toBe(false);
    await prepare();
    await writeFile(made!.file, "spoilt\n");
    expect((await prepare())[0]).toMatchObject({ kept: false, sha256: made!.sha256 });
    expect(await readFile(made!.file, "utf8")).toContain("special magic");
  });

  it("names what is wrong with the data folder", async () => {
    const qa = () => prepare({ task: "qa_1", length: 4096, data: join(folder, "data") });
    await expect(qa()).rejects.toMatchObject({ code: "ERR_RULER_DATA" });
    const { mkdir } = await import("node:fs/promises");
    await mkdir(join(folder, "data"));
    await writeFile(join(folder, "data/squad.json"), '{"data": [');
    await expect(qa()).rejects.toMatchObject({
      code: "ERR_RULER_DATA",
      details: { file: expect.any(String) },
    });
    await writeFile(join(folder, "data/squad.json"), "[1]");
    await expect(qa()).rejects.toMatchObject({ code: "ERR_RULER_DATA" });
    await rm(join(folder, "data/squad.json"));
    await writeFile(join(folder, "data/squad-a.json"), "{}");
    await writeFile(join(folder, "data/squad-b.json"), "{}");
    await expect(qa()).rejects.toThrow("more than one file for squad");
  });

  it("asks for the large word list only where cwe needs it", async () => {
    await expect(prepare({ task: "cwe", length: 131072, samples: 1 })).rejects.toMatchObject({
      code: "ERR_RULER_DATA",
      details: { part: "english_words" },
    });
  });
});

describe("sorted pairs of words", () => {
  it("are those of a real sort, prefixes of each other included", () => {
    const adjectives = ["old", "Early", "old-fashioned", "older", "wet", "wet", "blue"];
    const nouns = ["zoo", "ant", "fig", "gate", "hat"];
    const real = [...new Set(adjectives.flatMap((a) => nouns.map((n) => `${a}-${n}`)))].sort();
    const pairs = new PairedWords(adjectives, nouns);
    expect(pairs.size).toBe(real.length);
    expect(Array.from({ length: pairs.size }, (_, i) => pairs.at(i))).toEqual(real);
  });

  it("are 6,171,620 with the lists of the package", () => expect(data.pairedWords).toBe(6_171_620));
});
