// SPDX-License-Identifier: Apache-2.0
// Sources of every kind give the same rows, whole, in order, from any row on; what is broken is named.

import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { tableFromArrays, tableToIPC } from "apache-arrow";
import { parquetWriteBuffer } from "hyparquet-writer";
import { describe, expect, it } from "vitest";
import { firstAssistantTurn } from "../../src/data/conversation.ts";
import { zstdCompress } from "../../src/data/shards/compression.ts";
import { seededPermutation } from "../../src/data/shuffle.ts";
import { globPattern, localName, localSource } from "../../src/data/sources/local.ts";
import { countRows, readRows } from "../../src/data/sources/rows.ts";
import { isFault, type Row } from "../../src/data/sources/source.ts";
import { selectRows } from "../../src/embed/selection.ts";
import { SHARED, scratch, textRows } from "./support.ts";

const work = scratch("sources");

async function all(
  dataset: string,
  from = 0,
  columns: string[] | null = null,
  split = "train",
): Promise<Row[]> {
  const source = await localSource(dataset, { subset: null, split, cacheFolder: null });
  const rows: Row[] = [];
  for await (const batch of readRows(source, from, columns)) {
    expect(batch.first).toBe(from + rows.length);
    for (const row of batch.rows) {
      if (isFault(row)) throw row.fault;
      rows.push(row);
    }
  }
  return rows;
}

describe("a data set of", () => {
  const rows = textRows(2500).map((row, i) => ({ text: `${row.text} ü "q", ${i}\n`, label: row.label }));
  const csv = (delimiter: string): string =>
    ["text", "label"].join(delimiter) +
    "\r\n" +
    rows.map((row) => `"${row.text.replaceAll('"', '""')}"${delimiter}${row.label}\r\n`).join("");
  const jsonl = rows.map((row) => `${JSON.stringify(row)}\n`).join("");

  const kinds: [string, () => Promise<Uint8Array | string>][] = [
    ["rows.jsonl", async () => jsonl],
    ["rows.jsonl.gz", async () => gzipSync(jsonl)],
    ["rows.jsonl.zst", async () => zstdCompress(Buffer.from(jsonl))],
    ["rows.json", async () => JSON.stringify({ data: rows })],
    ["rows.csv", async () => csv(",")],
    ["rows.tsv", async () => csv("\t")],
    ["rows.csv.gz", async () => gzipSync(csv(","))],
    [
      "rows.arrow",
      async () =>
        tableToIPC(
          tableFromArrays({ text: rows.map((r) => r.text), label: rows.map((r) => r.label) }),
          "file",
        ),
    ],
    [
      "stream.arrow",
      async () =>
        tableToIPC(
          tableFromArrays({ text: rows.map((r) => r.text), label: rows.map((r) => r.label) }),
          "stream",
        ),
    ],
    [
      "rows.parquet",
      async () =>
        new Uint8Array(
          parquetWriteBuffer({
            columnData: [
              { name: "text", data: rows.map((r) => r.text), type: "STRING" },
              { name: "label", data: rows.map((r) => r.label), type: "INT32" },
            ],
            rowGroupSize: 700,
          }),
        ),
    ],
  ];

  it.each(kinds)("%s is read whole, from the middle, and with a projection", async (name, make) => {
    const folder = join(work, name);
    mkdirSync(folder);
    writeFileSync(join(folder, name), await make());
    const read = await all(folder);
    expect(read.length).toBe(rows.length);
    expect(read.map((row) => row.text)).toEqual(rows.map((row) => row.text));
    expect(read.map((row) => Number(row.label))).toEqual(rows.map((row) => row.label));
    expect((await all(folder, 1999)).map((row) => row.text)).toEqual(rows.slice(1999).map((row) => row.text));
    expect(Object.keys((await all(folder, 0, ["label"]))[3] as Row)).toEqual(["label"]);
    const source = await localSource(folder, { subset: null, split: "train", cacheFolder: null });
    expect(await countRows(source)).toEqual([rows.length]);
  });

  it("text lines keeps empty ones, and a last line without its newline", async () => {
    writeFileSync(join(work, "lines.txt"), "one\n\nthree\r\nfour");
    expect((await all(join(work, "lines.txt"))).map((row) => row.text)).toEqual(["one", "", "three", "four"]);
    expect((await all(join(work, "lines.txt"), 3)).map((row) => row.text)).toEqual(["four"]);
  });

  it("lines longer than a read chunk arrives whole", async () => {
    const long = "x".repeat(3_000_000);
    writeFileSync(join(work, "long.jsonl"), `{"text":"a"}\n{"text":"${long}"}\n{"text":"b"}\n`);
    const read = await all(join(work, "long.jsonl"));
    expect(read.map((row) => (row.text as string).length)).toEqual([1, 3_000_000, 1]);
    expect((await all(join(work, "long.jsonl"), 2))[0]).toEqual({ text: "b" });
  });
});

describe("what is broken", () => {
  const faults = async (file: string, content: string | Uint8Array): Promise<[number, string][]> => {
    writeFileSync(join(work, file), content);
    const source = await localSource(join(work, file), { subset: null, split: "train", cacheFolder: null });
    const found: [number, string][] = [];
    for await (const batch of readRows(source, 0, null))
      batch.rows.forEach((row, i) => {
        if (isFault(row)) found.push([batch.first + i, row.fault.code]);
      });
    return found;
  };

  it("is named row by row, and the rows after it are read", async () => {
    expect(await faults("bad.jsonl", '{"text":"a"}\n{"text":\n[1]\n{"text":"b"}\n')).toEqual([
      [1, "ERR_ROW_CORRUPT"],
      [2, "ERR_ROW_CORRUPT"],
    ]);
    expect(await faults("bad.csv", 'a,b\n1,2\n1,2,3\n3,4\n"open,5\n')).toEqual([
      [1, "ERR_ROW_CORRUPT"],
      [3, "ERR_ROW_CORRUPT"],
    ]);
    const latin = Buffer.concat([
      Buffer.from('{"text":"'),
      Buffer.from([0xe9]),
      Buffer.from('"}\n{"text":"ok"}\n'),
    ]);
    expect(await faults("latin.jsonl", latin)).toEqual([[0, "ERR_ROW_CORRUPT"]]);
  });

  it.each([
    ["cut.parquet", "PAR1 and then nothing that ends well"],
    ["cut.jsonl.gz", gzipSync("x".repeat(100_000)).subarray(0, 60)],
    ["cut.jsonl.zst", Buffer.from("28b52ffd0458", "hex")],
    ["cut.arrow", "ARROW1 but not really"],
    ["cut.json", "{"],
  ])("is named as a file: %s", async (file, content) => {
    writeFileSync(join(work, file), content);
    await expect(all(join(work, file))).rejects.toMatchObject({
      code: "ERR_SOURCE_UNREADABLE",
      name: "DataError",
    });
  });

  it("is said of missing files, empty folders, unknown endings, mixed globs, splits that are not there", async () => {
    await expect(all(join(work, "nothing"))).rejects.toMatchObject({ code: "ERR_SOURCE_MISSING" });
    mkdirSync(join(work, "empty"));
    await expect(all(join(work, "empty"))).rejects.toMatchObject({ code: "ERR_SOURCE_EMPTY" });
    await expect(all(join(work, "empty/*.jsonl"))).rejects.toMatchObject({ code: "ERR_SOURCE_EMPTY" });
    writeFileSync(join(work, "data.bin"), "x");
    await expect(all(join(work, "data.bin"))).rejects.toMatchObject({ code: "ERR_SOURCE_FORMAT" });
    mkdirSync(join(work, "mixed"));
    writeFileSync(join(work, "mixed/a.jsonl"), "{}\n");
    writeFileSync(join(work, "mixed/b.csv"), "a\n");
    await expect(all(join(work, "mixed/*"))).rejects.toMatchObject({ code: "ERR_SOURCE_MIXED" });
    mkdirSync(join(work, "splits"));
    writeFileSync(join(work, "splits/train.jsonl"), '{"text":"t"}\n');
    writeFileSync(join(work, "splits/validation.jsonl"), '{"text":"v"}\n');
    expect(await all(join(work, "splits"), 0, null, "dev")).toEqual([{ text: "v" }]);
    await expect(all(join(work, "splits"), 0, null, "test")).rejects.toMatchObject({
      code: "ERR_SPLIT_NOT_FOUND",
    });
  });
});

describe("the choice of rows", () => {
  it("is a permutation, the same for the same seed, another for another", () => {
    for (const size of [1, 2, 3, 17, 1000, 4097]) {
      const permutation = seededPermutation(size, 5);
      const image = Array.from({ length: size }, (_, i) => permutation.forward(i));
      expect([...image].sort((a, b) => a - b)).toEqual(Array.from({ length: size }, (_, i) => i));
      for (let i = 0; i < size; i++) expect(permutation.inverse(image[i] as number)).toBe(i);
    }
    const order = (seed: number): number[] =>
      Array.from({ length: 1000 }, (_, i) => seededPermutation(1000, seed).forward(i));
    expect(order(1)).toEqual(order(1));
    expect(order(1)).not.toEqual(order(2));
    // No drift: the mean position of the first half is that of any half.
    const mean =
      order(3)
        .slice(0, 500)
        .reduce((sum, position) => sum + position, 0) / 500;
    expect(Math.abs(mean - 499.5)).toBeLessThan(40);
  });

  it("gives shuffled rows by range as it gives them all at once", async () => {
    const folder = join(work, "shuffled");
    mkdirSync(folder);
    writeFileSync(
      join(folder, "a.jsonl"),
      textRows(700)
        .map((row) => `${JSON.stringify(row)}\n`)
        .join(""),
    );
    const source = await localSource(folder, { subset: null, split: "train", cacheFolder: null });
    const take = async (ranges: { start: number; end: number | null }[]): Promise<[number, number][]> => {
      const out: [number, number][] = [];
      const request = {
        source,
        columns: null,
        ranges,
        maxRows: 500,
        fileRows: [700],
        shuffle: { seed: 9, totalRows: 700, spoolFolder: join(work, "spool") },
      };
      for await (const batch of selectRows(request, () => undefined))
        out.push(...batch.map((row): [number, number] => [row.position, row.rowId]));
      return out;
    };
    const whole = await take([{ start: 0, end: null }]);
    expect(whole.map(([position]) => position)).toEqual(Array.from({ length: 500 }, (_, i) => i));
    expect(new Set(whole.map(([, rowId]) => rowId)).size).toBe(500);
    expect([
      ...(await take([{ start: 100, end: 200 }])),
      ...(await take([{ start: 400, end: null }])),
    ]).toEqual([...whole.slice(100, 200), ...whole.slice(400)]);
    expect(existsSync(join(work, "spool", `shuffle-${process.pid}`))).toBe(false);
  });

  it("says where the data ended, also to one who begins after it", async () => {
    writeFileSync(join(work, "fifty.jsonl"), '{"text":"x"}\n'.repeat(50));
    const source = await localSource(join(work, "fifty.jsonl"), {
      subset: null,
      split: "train",
      cacheFolder: null,
    });
    const endOf = async (start: number, maxRows: number | null): Promise<number | null> => {
      let end: number | null = null;
      const request = {
        source,
        columns: null,
        ranges: [{ start, end: null }],
        maxRows,
        fileRows: [],
        shuffle: null,
      };
      for await (const _ of selectRows(request, (positions) => {
        end = positions;
      }));
      return end;
    };
    expect(
      await Promise.all([
        endOf(0, null),
        endOf(20, null),
        endOf(50, null),
        endOf(900, null),
        endOf(10, 30),
        endOf(30, 30),
      ]),
    ).toEqual([50, 50, 50, 50, 30, 30]);
  });

  it("understands globs", () => {
    expect(globPattern("*.jsonl").test("a.jsonl")).toBe(true);
    expect(globPattern("*.jsonl").test("b/a.jsonl")).toBe(false);
    expect(globPattern("**/*.{csv,tsv}").test("x/y/a.tsv")).toBe(true);
    expect(globPattern("**/*.csv").test("a.csv")).toBe(true);
    expect(globPattern("part-[0-4]?.txt").test("part-31.txt")).toBe(true);
    expect(localName("/data/logs/*.jsonl")).toBe("logs/*.jsonl");
    expect(localName("/data/rows.jsonl.zst")).toBe("rows");
  });

  it("finds the first assistant turn as the original did", () => {
    const turns = (list: unknown): string | null => firstAssistantTurn(list, "here");
    expect(
      turns([
        { role: "user", content: "q" },
        { role: "Assistant", content: " a " },
        { role: "model", content: "b" },
      ]),
    ).toBe("a");
    expect(
      turns([
        { role: "assistant", content: "" },
        { role: "MODEL", content: "b" },
      ]),
    ).toBe("b");
    expect(turns([{ role: "user", content: "q" }])).toBeNull();
    expect(turns([])).toBeNull();
    expect(turns('[{"role":"assistant","content":"from csv"}]')).toBe("from csv");
    expect(() => turns("no list")).toThrowError(expect.objectContaining({ code: "ERR_CONVERSATION_SHAPE" }));
  });
});

const python = process.env.CHATSPACE_PYTHON ?? "python3";
describe.skipIf(!existsSync(join(SHARED, "data")))("real data", () => {
  it.each([
    ["data/axbench/concept10_prod_2b_l10_v1_generate_train_data.parquet", 936],
    ["data/anthropic-evals/persona/openness.jsonl", 1000],
    ["data/gsm8k/test.jsonl", 1319],
    ["data/truthfulqa/TruthfulQA.csv", 790],
    ["data/tinyshakespeare/input.txt", 40000],
  ])("%s has %i rows or more", async (file, least) => {
    const rows = await all(join(SHARED, file), 0, null);
    console.log(`${file}: ${rows.length} rows, columns ${Object.keys(rows[0] ?? {}).join(", ")}`);
    expect(rows.length).toBeGreaterThanOrEqual(least);
  });

  it("TruthfulQA's csv is read as Python's csv module reads it", async ({ skip }) => {
    const file = join(SHARED, "data/truthfulqa/TruthfulQA.csv");
    let expected: string[][];
    try {
      const script =
        "import csv,json,sys; print(json.dumps(list(csv.reader(open(sys.argv[1], newline='', encoding='utf-8-sig')))))";
      expected = JSON.parse(
        execFileSync(python, ["-c", script, file], { encoding: "utf8", maxBuffer: 1 << 26 }),
      ) as string[][];
    } catch {
      return skip("no Python here");
    }
    const [header, ...body] = expected;
    const rows = await all(file);
    expect(rows.map((row) => Object.values(row))).toEqual(body);
    expect(Object.keys(rows[0] as Row)).toEqual(header);
    expect(readFileSync(file).length).toBeGreaterThan(0);
  });
});
