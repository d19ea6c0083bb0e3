// SPDX-License-Identifier: Apache-2.0
// A decoder's site through the embedding pipeline is what capture gives: same rows, same pooling, steered
// or not.

import { join } from "node:path";
import { beforeAll, expect, it } from "vitest";
import { listShards, readShard } from "../../src/data/shards/reader.ts";
import { SteerModel } from "../../src/model/steer-model.ts";
import { ensureBuilt, ROOT, runToEnd, scratch, textRows, writeJsonl } from "../embed/support.ts";

const work = scratch("embed-site");
const archive = join(ROOT, "models/stories260k.pt");
const texts = textRows(30, 12).map((row) => ({ text: row.text || "once" }));

beforeAll(ensureBuilt);

it.each([
  ["mean", null],
  ["last", [{ site: "layers.1", vector: Array.from({ length: 64 }, (_, i) => (i === 3 ? 1 : 0)), scale: 4 }]],
] as const)("pooled by %s equals a capture of the site", async (pooling, program) => {
  const outputRoot = join(work, `out-${pooling}`);
  await runToEnd({
    dataset: writeJsonl(join(work, "data"), texts),
    model: archive,
    site: "layers.2",
    pooling,
    outputRoot,
    rowsPerShard: 20,
    windowRows: 10,
    threads: 1,
    ...(program === null ? {} : { steering: JSON.stringify(program) }),
  });
  const model = await SteerModel.load(archive, { device: "cpu", threads: 1 });
  let worst = 0;
  let rows = 0;
  try {
    for (const shard of await listShards(join(outputRoot, "embeddings/stories260k/data/train"))) {
      for await (const batch of readShard(shard.path, ["text", "embedding"], { start: 0, end: shard.rows })) {
        for (const row of batch.rows) {
          const { captures } = await model.forward(row.text as string, {
            logits: "none",
            capture: { sites: ["layers.2"], pool: pooling },
            ...(program === null ? {} : { steering: program }),
          });
          const expected = captures["layers.2"]?.data as Float32Array;
          (row.embedding as number[]).forEach((value, i) => {
            worst = Math.max(worst, Math.abs(value - (expected[i] as number)));
          });
          rows++;
        }
      }
    }
  } finally {
    await model.dispose();
  }
  console.log(`${rows} rows, pooling ${pooling}: max |difference| ${worst.toExponential(2)}`);
  expect(rows).toBe(30);
  // Rows of a batch share matrix products; alone they do not.
  expect(worst).toBeLessThan(1e-5);
});
