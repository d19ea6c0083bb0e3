// SPDX-License-Identifier: Apache-2.0
// embed-dataset: a sample of a data set through a paid endpoint. First a plan that costs nothing; with
// `execute` the spending, every answer kept on disk as it comes, so that nothing is paid for twice.

import { createHash } from "node:crypto";
import { join } from "node:path";
import { writeFileAtomic } from "../data/files.ts";
import { createJournal, JournalWriter, readJournal } from "../data/journal.ts";
import { takeLock } from "../data/lock.ts";
import { sanitizeComponent } from "../data/names.ts";
import { pageCodec } from "../data/shards/compression.ts";
import { encodeParquet } from "../data/shards/parquet-writer.ts";
import type { ShardSchema } from "../data/shards/schema.ts";
import { datasetName, openDataset } from "../data/sources/open.ts";
import { countRows, missingColumn } from "../data/sources/rows.ts";
import { isFault } from "../data/sources/source.ts";
import { DataError, misuse } from "../errors.ts";
import { requestEmbeddings } from "./encoders/endpoint.ts";
import { selectRows } from "./selection.ts";

export interface EndpointDatasetConfig {
  dataset: string;
  subset?: string | null;
  split?: string;
  revision?: string;
  /** Rows of the sample; default min(100, all). Either n or p. */
  n?: number | null;
  /** Fraction of the rows. */
  p?: number | null;
  seed?: number;
  /** Default OPENAI_EMBED_MODEL, else "text-embedding-3-small". */
  model?: string;
  textField?: string;
  batchSize?: number;
  /** Default OPENAI_BASE_URL, else the public one. */
  endpoint?: string;
  outputRoot?: string;
  /** false (default): return the plan, ask nobody. */
  execute?: boolean;
}

export interface EndpointPlan {
  dataset: string;
  split: string;
  model: string;
  endpoint: string;
  text_field: string;
  rows_total: number;
  rows_selected: number;
  rows_empty: number;
  characters: number;
  /** About four characters a token; the endpoint's own count is in the manifest. */
  estimated_tokens: number;
  requests: number;
  batch_size: number;
  seed: number;
  n: number | null;
  p: number | null;
  shard: string;
  manifest: string;
  execute: boolean;
}

export interface EndpointResult {
  plan: EndpointPlan;
  /** null for a plan alone. */
  manifest: Record<string, unknown> | null;
  /** Requests of this session, and answers taken from an earlier one. */
  requested: number;
  reused: number;
}

interface Answer {
  type: "answer";
  /** sha256 of the texts of the batch. */
  key: string;
  tokens: number;
  dim: number;
  /** base64 of little-endian float32, [rows, dim]. */
  vectors: string;
}

/** Plans or runs an embedding by endpoint. */
export async function embedByEndpoint(
  given: EndpointDatasetConfig,
  options: {
    signal?: AbortSignal;
    onProgress?: (done: number, all: number) => void;
    apiKey?: string | null;
  } = {},
): Promise<EndpointResult> {
  const { n = null, p = null, seed = 42, split = "train", textField = "text", batchSize = 128 } = given;
  const model = given.model ?? process.env.OPENAI_EMBED_MODEL ?? "text-embedding-3-small";
  const endpoint = given.endpoint ?? process.env.OPENAI_BASE_URL ?? "https://api.openai.com/v1";
  const root = given.outputRoot ?? "./chatspace-data";
  if (n !== null && p !== null)
    throw misuse(TypeError, "ERR_OPTION_CONFLICT", "n and p", "one of the two", "both");
  if (n !== null && (!Number.isSafeInteger(n) || n < 1))
    throw misuse(RangeError, "ERR_OPTION_RANGE", "n", "a whole number above 0", n);
  if (p !== null && !(p > 0 && p <= 1))
    throw misuse(RangeError, "ERR_OPTION_RANGE", "p", "a fraction above 0, up to 1", p);
  if (!Number.isSafeInteger(batchSize) || batchSize < 1)
    throw misuse(RangeError, "ERR_OPTION_RANGE", "batch_size", "a whole number above 0", batchSize);

  const cacheFolder = join(root, "cache");
  const source = await openDataset({
    dataset: given.dataset,
    subset: given.subset ?? null,
    split,
    revision: given.revision ?? "main",
    cacheFolder,
  });
  const fileRows = await countRows(source);
  const total = fileRows.reduce((sum, rows) => sum + rows, 0);
  const wanted = Math.min(
    total,
    n ?? (p === null ? Math.min(100, total) : Math.max(1, Math.round(p * total))),
  );
  const rows: { id: string; text: string }[] = [];
  let empty = 0;
  const selected = selectRows(
    {
      source,
      columns: null,
      ranges: [{ start: 0, end: null }],
      maxRows: wanted,
      fileRows,
      shuffle: { seed, totalRows: total, spoolFolder: join(cacheFolder, "shuffle") },
    },
    () => undefined,
  );
  for await (const batch of selected) {
    for (const { row, rowId } of batch) {
      if (isFault(row)) throw row.fault;
      if (!(textField in row)) throw missingColumn(textField, Object.keys(row));
      const value = row[textField];
      const text =
        typeof value === "string"
          ? value
          : value === null || value === undefined
            ? ""
            : JSON.stringify(value);
      if (text.trim() === "") empty++;
      else rows.push({ id: String(rowId), text });
    }
  }
  const name = await datasetName(given.dataset);
  const folder = join(sanitizeComponent(model), sanitizeComponent(name));
  const shardPath = join(root, "embeddings", folder, "shard-00000.parquet");
  const manifestPath = join(root, "indexes", folder, "manifest.json");
  const characters = rows.reduce((sum, row) => sum + row.text.length, 0);
  const plan: EndpointPlan = {
    dataset: name,
    split,
    model,
    endpoint,
    text_field: textField,
    rows_total: total,
    rows_selected: rows.length,
    rows_empty: empty,
    characters,
    estimated_tokens: Math.ceil(characters / 4),
    requests: Math.ceil(rows.length / batchSize),
    batch_size: batchSize,
    seed,
    n,
    p,
    shard: shardPath,
    manifest: manifestPath,
    execute: given.execute === true,
  };
  if (given.execute !== true) return { plan, manifest: null, requested: 0, reused: 0 };
  if (rows.length === 0)
    throw new DataError("ERR_SOURCE_EMPTY", `${name} has no text to embed in ${textField}`);

  const answersPath = join(
    root,
    "cache",
    "endpoint",
    `${sanitizeComponent(model)}--${sanitizeComponent(name)}.jsonl`,
  );
  const unlock = await takeLock(`${answersPath}.lock`);
  try {
    await createJournal(answersPath, { type: "answers", version: 1 });
    const known = new Map(
      (await readJournal<Answer>(answersPath))
        .filter((entry) => entry.type === "answer")
        .map((entry) => [entry.key, entry]),
    );
    const journal = await JournalWriter.open(answersPath);
    const apiKey = options.apiKey ?? process.env.OPENAI_API_KEY ?? null;
    const answers: Answer[] = [];
    let reused = 0;
    try {
      for (let start = 0; start < rows.length; start += batchSize) {
        options.signal?.throwIfAborted();
        const texts = rows.slice(start, start + batchSize).map((row) => row.text);
        const key = createHash("sha256")
          .update(JSON.stringify([endpoint, model, texts]))
          .digest("hex");
        let answer = known.get(key);
        if (answer === undefined) {
          const { vectors, tokens } = await requestEmbeddings(
            texts,
            { endpoint, model, apiKey },
            options.signal,
          );
          const dim = vectors[0]?.length ?? 0;
          const all = new Float32Array(texts.length * dim);
          vectors.forEach((vector, i) => {
            all.set(vector, i * dim);
          });
          answer = { type: "answer", key, tokens, dim, vectors: Buffer.from(all.buffer).toString("base64") };
          await journal.append(answer);
        } else reused++;
        answers.push(answer);
        options.onProgress?.(Math.min(start + batchSize, rows.length), rows.length);
      }
    } finally {
      await journal.close();
    }
    const manifest = await writeShard(plan, rows, answers, source.kind);
    await writeFileAtomic(manifestPath, [`${JSON.stringify(manifest, null, 2)}\n`]);
    return { plan, manifest, requested: answers.length - reused, reused };
  } finally {
    await unlock();
  }
}

/** The one shard, in the original's schema, and its manifest. */
async function writeShard(
  plan: EndpointPlan,
  rows: readonly { id: string; text: string }[],
  answers: readonly Answer[],
  kind: "local" | "hub",
): Promise<Record<string, unknown>> {
  const dim = answers[0]?.dim ?? 0;
  if (answers.some((answer) => answer.dim !== dim)) {
    throw new DataError("ERR_EMBEDDING_WIDTH", "The endpoint gave vectors of different lengths", {
      details: { dims: [...new Set(answers.map((answer) => answer.dim))] },
      remedies: ["remove the cached answers under cache/endpoint and run again"],
    });
  }
  const embeddings = new Float32Array(rows.length * dim);
  let at = 0;
  for (const answer of answers) {
    const bytes = Uint8Array.from(Buffer.from(answer.vectors, "base64"));
    const vectors = new Float32Array(bytes.buffer);
    embeddings.set(vectors, at);
    at += vectors.length;
  }
  const createdAt = new Date().toISOString();
  const names = ["id", "source", "dataset", "split", "text", "metadata", "model", "created_at"];
  const schema: ShardSchema = {
    columns: names.map((name) => ({ name, type: "string", nullable: false })),
    embedding: { name: "embedding", dim, type: "float32" },
  };
  const constant = (value: string): string[] => rows.map(() => value);
  const parts = encodeParquet(
    schema,
    {
      rows: rows.length,
      columns: [
        rows.map((row) => row.id),
        constant(kind === "hub" ? "huggingface" : "local"),
        constant(plan.dataset),
        constant(plan.split),
        rows.map((row) => row.text),
        constant(JSON.stringify({ text_field: plan.text_field })),
        constant(plan.model),
        constant(createdAt),
      ],
      embeddings,
    },
    await pageCodec("zstd"),
  );
  const { bytes, sha256 } = await writeFileAtomic(plan.shard, parts);
  return {
    model: plan.model,
    dataset: plan.dataset,
    created_at: createdAt,
    shards: [{ path: plan.shard, rows: rows.length, format: "parquet", bytes, sha256, embedding_dim: dim }],
    sampling: { seed: plan.seed, n: plan.n, p: plan.p },
    split: plan.split,
    text_field: plan.text_field,
    rows_empty: plan.rows_empty,
    tokens: answers.reduce((sum, answer) => sum + answer.tokens, 0),
  };
}
