// SPDX-License-Identifier: Apache-2.0
// Columns written row by row: pieces that wait for their neighbours and are lost, doubled, swapped or left
// behind when the file is given up; parts that come in any order and bring less than they announced.
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { RowsFile } from "../../src/formats/rows-file.ts";

const folder = mkdtempSync(join(tmpdir(), "rows-file-"));
afterAll(() => rmSync(folder, { recursive: true }));

const HEADER = 16;
const header = (rows: number, bytes = HEADER) => new Uint8Array(bytes).fill(rows % 251);

/** Bytes of a row that tell part, row and column. */
function rows(part: number, first: number, count: number, column: number, size: number): Uint8Array {
  const out = new Uint8Array(count * size);
  for (let r = 0; r < count; r++)
    for (let k = 0; k < size; k++)
      out[r * size + k] = (part * 89 + (first + r) * 31 + column * 7 + (k % 13)) % 256;
  return out;
}

/** `order` names parts; each time one is named it brings its next piece. */
async function written(
  name: string,
  rowBytes: number[],
  most: number[],
  pieces: number[][],
  order: number[],
): Promise<Buffer> {
  const path = join(folder, name);
  const file = await RowsFile.create(path, { header, rowBytes, mostRows: most });
  const next = pieces.map(() => ({ piece: 0, row: 0 }));
  for (const part of order) {
    const at = next[part]!;
    const count = pieces[part]![at.piece++]!;
    await file.write(
      part,
      rowBytes.map((size, c) => rows(part, at.row, count, c, size)),
    );
    at.row += count;
  }
  const total = pieces.flat().reduce((sum, each) => sum + each, 0);
  expect(await file.finish()).toBe(total);
  const wanted = [
    header(total),
    ...rowBytes.flatMap((size, c) =>
      pieces.map((each, part) =>
        rows(
          part,
          0,
          each.reduce((sum, n) => sum + n, 0),
          c,
          size,
        ),
      ),
    ),
  ];
  const got = readFileSync(path);
  expect(got.equals(Buffer.concat(wanted)), name).toBe(true);
  return got;
}

test("neighbouring parts, in order and out of order, give the same bytes", async () => {
  const layout = [
    [4, 1200],
    [3, 5, 2],
    [[3], [2, 3], [1, 1]],
  ] as const;
  const run = (name: string, order: number[]) =>
    written(
      name,
      [...layout[0]],
      [...layout[1]],
      layout[2].map((each) => [...each]),
      order,
    );
  const first = await run("in-order", [0, 1, 1, 2, 2]);
  expect((await run("mixed", [2, 1, 0, 2, 1])).equals(first)).toBe(true);
});

test("more than waits at once: what was written early and late is whole", async () => {
  // Forty parts of 23 rows of 24 KB: 22 MB a run, joined over several writes.
  const parts = Array.from({ length: 40 }, (_, i) => i);
  await written(
    "large",
    [4, 16384, 8192],
    parts.map(() => 23),
    parts.map(() => [16, 7]),
    [...parts, ...parts.toReversed()],
  );
});

test("parts that bring less than they announced leave no gap, and nothing is a part too", async () => {
  await written("gaps", [8, 40], [10, 10, 10, 10], [[4], [], [10], [1, 2]], [3, 2, 0, 3]);
});

test("a file that is given up leaves nothing, written or waiting", async () => {
  const path = join(folder, "given-up");
  const file = await RowsFile.create(path, { header, rowBytes: [1 << 20], mostRows: [20] });
  await file.write(0, [rows(0, 0, 9, 0, 1 << 20)]);
  await file.write(0, [rows(0, 9, 1, 0, 1 << 20)]);
  await file.abandon();
  expect(readdirSync(folder).filter((name) => name.startsWith("given-up"))).toEqual([]);
});

test("a part that brings more than it announced is refused", async () => {
  const file = await RowsFile.create(join(folder, "more"), { header, rowBytes: [4], mostRows: [2] });
  await file.write(0, [rows(0, 0, 2, 0, 4)]);
  await expect(file.write(0, [rows(0, 2, 1, 0, 4)])).rejects.toMatchObject({ code: "ERR_FILE_WRITE" });
  await file.abandon();
});
