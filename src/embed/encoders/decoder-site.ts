// SPDX-License-Identifier: Apache-2.0
// A site of a decoder as an encoder: the hidden states of each row, steered or not, pooled over its
// tokens. Rows of a batch are handed to the engine together; it batches what is there.

import { readFile } from "node:fs/promises";
import { basename } from "node:path";
import { statOrNull } from "../../data/files.ts";
import { cachedHash } from "../../data/sources/hash-cache.ts";
import { DataError, describe, ModelError } from "../../errors.ts";
import type { ResolvedConfig } from "../config.ts";
import type { EncodeRequest, EncodeResult, Encoder, ModelSpec } from "./encoder.ts";
import { normalizeRow, poolRow } from "./pooling.ts";

/** As much of SteerModel as reading a site takes. */
export interface SiteReader {
  readonly info: { contextLength: number; weightHash: string };
  readonly tokenizer: { encode(text: string): Int32Array } | undefined;
  forward(
    prompt: Int32Array,
    options: {
      logits: "none";
      steering?: readonly object[];
      capture: { sites: readonly string[]; phase: "prompt"; pool: "none" | "mean" | "last" | "first" };
    },
  ): Promise<{ captures: Record<string, { data: Float32Array; shape: readonly [number, number] }> }>;
  dispose(): Promise<void>;
}

/** Opens a SiteReader; by default a SteerModel. */
export type OpenSiteReader = (
  path: string,
  options: { device: string; threads: number },
) => Promise<SiteReader>;

const openSteerModel: OpenSiteReader = async (path, { device, threads }) => {
  const { SteerModel } = await import("../../model/steer-model.ts");
  return (await SteerModel.load(path, { device, threads })) as unknown as SiteReader;
};

/** What the parent needs to know of a decoder before it is loaded. */
export async function decoderModelSpec(config: ResolvedConfig, cacheFolder: string): Promise<ModelSpec> {
  const stats = await statOrNull(config.model);
  const identity: Record<string, string> = stats?.isFile()
    ? { [basename(config.model)]: (await cachedHash(config.model, cacheFolder)).sha256 }
    : { name: config.model };
  if (config.steering !== null) identity.steering = JSON.stringify(await readProgram(config.steering));
  const pooling = config.pooling ?? "mean";
  return {
    kind: "decoder",
    name:
      config.modelName ??
      (stats === null ? config.model : basename(config.model).replace(/\.(pt|gguf)$/i, "")),
    path: config.model,
    tokenizer: null,
    tokenizerConfig: null,
    pooling,
    poolingSource: config.pooling === null ? "default" : "option",
    normalize: config.normalize ?? false,
    normalizeSource: config.normalize === null ? "default" : "option",
    maxTokens: config.bucketMaxTokens,
    padId: 0,
    identity,
    site: config.site,
    steering: config.steering,
  };
}

/** Loads the decoder and reads `spec.site`. `open` is there so that another runtime can be put in. */
export async function openDecoderEncoder(
  spec: ModelSpec,
  options: { device: string; threads: number; prefix: string },
  open: OpenSiteReader = openSteerModel,
): Promise<Encoder> {
  const model = await open(spec.path, options);
  const { tokenizer } = model;
  if (tokenizer === undefined) {
    await model.dispose();
    throw new ModelError("ERR_MODEL_FILE", `${spec.path} holds no tokenizer`, {
      details: { path: spec.path },
      remedies: ["make the archive anew from a folder that has tokenizer.json"],
    });
  }
  const steering = spec.steering === null ? null : await resolveProgram(await readProgram(spec.steering));
  const { pooling } = spec;
  const native = pooling === "mean" || pooling === "last" ? pooling : pooling === "cls" ? "first" : "none";
  const limit = Math.min(spec.maxTokens, model.info.contextLength || Number.POSITIVE_INFINITY);
  const site = spec.site ?? "";

  const encodeRow = async (ids: Int32Array): Promise<Float32Array> => {
    const { captures } = await model.forward(ids, {
      logits: "none",
      capture: { sites: [site], phase: "prompt", pool: native },
      ...(steering === null ? {} : { steering }),
    });
    const capture = Object.values(captures)[0];
    if (capture === undefined) throw new ModelError("ERR_SITE_EMPTY", `${spec.path} gave nothing at ${site}`);
    const [rows, dim] = capture.shape;
    const out = new Float32Array(dim);
    if (native === "none")
      poolRow(
        { data: capture.data, length: rows, dim, lengths: [rows] },
        0,
        pooling === "model" ? "mean" : pooling,
        out,
        0,
      );
    else out.set(capture.data.subarray(0, dim));
    if (spec.normalize) normalizeRow(out, 0, dim);
    return out;
  };

  return {
    wantsText: true,
    async encode({ texts, rows }: EncodeRequest): Promise<EncodeResult> {
      let tokens = 0;
      const ids = (texts ?? []).map((text) => {
        const all = tokenizer.encode(options.prefix + text);
        const row = all.length > limit ? all.subarray(0, limit) : all;
        tokens += row.length;
        return row;
      });
      const vectors = await Promise.all(ids.map(encodeRow));
      const dim = vectors[0]?.length ?? 0;
      const embeddings = new Float32Array(rows * dim);
      vectors.forEach((vector, row) => {
        embeddings.set(vector, row * dim);
      });
      // The engine runs rows of different lengths without padding.
      return { embeddings, dim, tokens, paddedTokens: tokens, batches: 1 };
    },
    async warmUp() {
      const started = performance.now();
      await encodeRow(tokenizer.encode("warm up"));
      return { first: performance.now() - started };
    },
    close: () => model.dispose(),
  };
}

type PlainOperation = Record<string, unknown>;

/** A program as data: JSON text, a JSON file, or terms like `0.5 happy@layers.12 + calm@layers.14`. */
export async function readProgram(given: string): Promise<PlainOperation[]> {
  let text = given.trim();
  if (/\.json$/i.test(text)) text = await readFile(text, "utf8");
  if (/^[[{]/.test(text.trim())) {
    const value: unknown = JSON.parse(text);
    return (Array.isArray(value) ? value : [value]) as PlainOperation[];
  }
  return text.split(/\s\+\s/).map((term) => {
    const match = /^(?:(-?\d+(?:\.\d+)?(?:e-?\d+)?)\s*\*?\s+)?(\S+?)(?:@(\S+))?$/i.exec(term.trim());
    if (match === null) {
      throw new DataError("ERR_STEERING_TEXT", `${describe(term)} is not a term of a steering program`, {
        details: { term, program: given },
        remedies: ["write terms as: 0.5 happy@layers.12", "give the program as JSON"],
      });
    }
    const [, scale, vector, site] = match;
    return {
      vector,
      ...(scale === undefined ? {} : { scale: Number(scale) }),
      ...(site === undefined ? {} : { site }),
    };
  });
}

/** Vectors by name or file become vectors. */
async function resolveProgram(program: readonly PlainOperation[]): Promise<object[]> {
  const { resolveVector } = await import("../../steering/vector-names.ts");
  return Promise.all(
    program.map(async (operation) =>
      typeof operation.vector === "string"
        ? { ...operation, vector: await resolveVector(operation.vector) }
        : operation,
    ),
  );
}
