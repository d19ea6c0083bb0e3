// SPDX-License-Identifier: Apache-2.0
// What a sentence encoder's own files say about it: which ONNX file, how its tokens are pooled, whether
// its vectors are normalised, where it cuts. Nothing is assumed silently: each answer names its source.

import { readFile } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { statOrNull } from "../../data/files.ts";
import { cachedHash } from "../../data/sources/hash-cache.ts";
import { HubRepo } from "../../data/sources/hub-repo.ts";
import { ModelError } from "../../errors.ts";
import type { Pooling, ResolvedConfig } from "../config.ts";
import type { ModelSpec } from "./encoder.ts";

/** ONNX files by precision, in the order they are looked for. */
const ONNX_FILES: Record<string, readonly string[]> = {
  auto: ["model.onnx", "onnx/model.onnx"],
  float32: ["model.onnx", "onnx/model.onnx"],
  float16: ["model_fp16.onnx", "onnx/model_fp16.onnx"],
  int8: ["model_int8.onnx", "onnx/model_int8.onnx", "model_quantized.onnx", "onnx/model_quantized.onnx"],
  q4: ["model_q4.onnx", "onnx/model_q4.onnx"],
};

const SMALL_FILES = [
  "config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "modules.json",
  "sentence_bert_config.json",
  "1_Pooling/config.json",
];

type Json = Record<string, unknown>;

async function readJson(folder: string, name: string): Promise<unknown> {
  let text: string;
  try {
    text = await readFile(join(folder, name), "utf8");
  } catch {
    return null;
  }
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new ModelError("ERR_MODEL_FILE", `${join(folder, name)} is not JSON`, {
      details: { file: join(folder, name) },
      remedies: ["fetch the model again"],
      cause: error,
    });
  }
}

function poolingOf(config: Json | null): Pooling | null {
  if (config === null) return null;
  const modes: [string, Pooling][] = [
    ["pooling_mode_cls_token", "cls"],
    ["pooling_mode_mean_tokens", "mean"],
    ["pooling_mode_max_tokens", "max"],
    ["pooling_mode_mean_sqrt_len_tokens", "mean-sqrt-len"],
    ["pooling_mode_weightedmean_tokens", "weighted-mean"],
    ["pooling_mode_lasttoken", "last"],
  ];
  const on = modes.filter(([key]) => config[key] === true).map(([, pooling]) => pooling);
  if (typeof config.pooling_mode === "string") {
    const named = {
      cls: "cls",
      mean: "mean",
      max: "max",
      lasttoken: "last",
      mean_sqrt_len: "mean-sqrt-len",
      weightedmean: "weighted-mean",
    };
    const pooling = (named as Record<string, Pooling>)[config.pooling_mode];
    if (pooling !== undefined) return pooling;
  }
  if (on.length > 1) {
    throw new ModelError(
      "ERR_MODEL_MODULE",
      `1_Pooling asks for ${on.join(" and ")} at once, which is not supported`,
      {
        details: { poolings: on },
        remedies: ["choose one by --pooling"],
      },
    );
  }
  return on[0] ?? null;
}

async function localFolder(
  config: ResolvedConfig,
  cacheFolder: string,
): Promise<{ folder: string; local: boolean }> {
  const stats = await statOrNull(config.model);
  if (stats?.isDirectory()) return { folder: resolve(config.model), local: true };
  if (stats !== null || /^[./~]/.test(config.model)) {
    throw new ModelError("ERR_MODEL_NOT_FOUND", `${config.model} is not a folder with an ONNX encoder`, {
      details: { model: config.model },
      remedies: [
        "give the folder that holds model.onnx and tokenizer.json",
        "a decoder archive needs --site as well",
      ],
    });
  }
  const repo = await HubRepo.open({ type: "model", name: config.model, revision: "main", cacheFolder });
  const present = new Set(repo.files.map((file) => file.path));
  const weights = (ONNX_FILES[config.dtype] ?? []).find((file) => present.has(file));
  if (weights === undefined) throw noWeights(config);
  const wanted = [...SMALL_FILES, weights, `${weights}_data`, weights.replace(/\.onnx$/, ".onnx.data")];
  for (const file of wanted) if (present.has(file)) await repo.fetchFile(file);
  return { folder: repo.folder, local: false };
}

function noWeights(config: ResolvedConfig): ModelError {
  return new ModelError(
    "ERR_MODEL_NOT_FOUND",
    `${config.model} holds no ONNX file of precision ${config.dtype}`,
    {
      details: { model: config.model, dtype: config.dtype, lookedFor: ONNX_FILES[config.dtype] ?? [] },
      remedies: [
        `choose a precision it has by --dtype: ${Object.keys(ONNX_FILES).join(", ")}`,
        "export it: scripts/py/export_minilm_onnx.py shows how",
      ],
    },
  );
}

/** Reads a sentence encoder's folder (fetched from the hub if need be). */
export async function onnxModelSpec(config: ResolvedConfig, cacheFolder: string): Promise<ModelSpec> {
  const { folder, local } = await localFolder(config, cacheFolder);
  let weights: string | null = null;
  for (const file of ONNX_FILES[config.dtype] ?? [])
    if (weights === null && (await statOrNull(join(folder, file))) !== null) weights = join(folder, file);
  if (weights === null) throw noWeights(config);
  const tokenizer = join(folder, "tokenizer.json");
  if ((await statOrNull(tokenizer)) === null) {
    throw new ModelError("ERR_MODEL_FILE", `${folder} has no tokenizer.json`, {
      details: { folder },
      remedies: ["save the fast tokenizer beside the model"],
    });
  }
  const modules = (await readJson(folder, "modules.json")) as Json[] | null;
  const kinds = (modules ?? []).map((module) => String(module.type).split(".").at(-1) ?? "");
  const unknown = kinds.filter((kind) => !["Transformer", "Pooling", "Normalize", "Dropout"].includes(kind));
  if (unknown.length > 0) {
    throw new ModelError(
      "ERR_MODEL_MODULE",
      `modules.json asks for ${unknown.join(", ")}, which is not supported`,
      {
        details: { modules: kinds },
        remedies: ["export the model with these layers inside the ONNX graph"],
      },
    );
  }
  const sentence = (await readJson(folder, "sentence_bert_config.json")) as Json | null;
  const tokenizerConfig = (await readJson(folder, "tokenizer_config.json")) as Json | null;
  const network = (await readJson(folder, "config.json")) as Json | null;
  const ownPooling = poolingOf((await readJson(folder, "1_Pooling/config.json")) as Json | null);
  const limits = [
    sentence?.max_seq_length,
    tokenizerConfig?.model_max_length,
    network?.max_position_embeddings,
  ]
    .filter((limit): limit is number => typeof limit === "number" && limit > 0 && limit < 1e9)
    .concat(config.bucketMaxTokens);
  const identity: Record<string, string> = {};
  for (const file of [weights, `${weights}_data`, `${weights}.data`, tokenizer])
    if ((await statOrNull(file)) !== null)
      identity[basename(file)] = (await cachedHash(file, cacheFolder)).sha256;
  return {
    kind: "onnx",
    name: config.modelName ?? (local ? basename(folder) : config.model),
    path: weights,
    tokenizer,
    tokenizerConfig: tokenizerConfig === null ? null : join(folder, "tokenizer_config.json"),
    pooling: config.pooling ?? ownPooling ?? "mean",
    poolingSource:
      config.pooling !== null ? "option" : ownPooling !== null ? "1_Pooling/config.json" : "default",
    normalize: config.normalize ?? kinds.includes("Normalize"),
    normalizeSource: config.normalize !== null ? "option" : modules !== null ? "modules.json" : "default",
    maxTokens: Math.min(...limits),
    padId: typeof network?.pad_token_id === "number" ? network.pad_token_id : 0,
    identity,
    site: null,
    steering: null,
  };
}
