// SPDX-License-Identifier: Apache-2.0
// From a checkpoint to an archive of our own: the plan is made here, the addon writes it.

import { createHash } from "node:crypto";
import { createReadStream, readFileSync, statSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { ModelError } from "../errors.ts";
import { isGguf } from "../formats/gguf.ts";
import type { NativeConvertPlan } from "../native/contract.ts";
import { loadAddon } from "../native/loader.ts";
import { type Checkpoint, openHuggingFace } from "./checkpoint.ts";
import { ArchiveBuilder } from "./families/builder.ts";
import { familyOf } from "./families/index.ts";
import { readFamilySource } from "./families/source.ts";
import { openGguf } from "./gguf-checkpoint.ts";
import { checkStoredForm, type StoredForm, storeAs } from "./stored-form.ts";
import { ggufTokenizerFiles, huggingFaceTokenizerFiles, type TokenizerBundle } from "./tokenizer-files.ts";

/** Part of the cache key of converted models; raised when archives are written differently. */
export const ARCHIVE_FORMAT = 1;

/** chatspace.json, the archive's description of itself. */
export interface ArchiveMetadata {
  format: number;
  family: string;
  /** model_type of the source. */
  architecture: string;
  layers: number;
  hiddenSize: number;
  vocabSize: number;
  contextLength: number;
  heads: number;
  kvHeads: number;
  headDim: number;
  bosId: number | null;
  eosIds: number[];
  tokenizer: { files: string[]; addBos: boolean | null; chatTemplate: boolean };
  source: {
    format: string;
    files: { name: string; bytes: number; sha256: string | null }[];
    /** Where a hub gave the files. */
    repository?: string;
    /** Commit there. */
    revision?: string;
  };
  /** What was asked for at conversion, where it was not the source's own types. */
  stored?: { dtype: string; quantize: "none" | "int8" | "int4" };
  createdBy: string;
  /** By attribute path; type as stored (F32, Q4_1, ...), shape in elements. */
  weights: Record<string, { type: string; shape: number[] }>;
}

/** The repository on a hub and the commit that the source files are of. */
export interface SourceOrigin {
  repository: string;
  revision: string;
}

export interface ConversionPlan {
  plan: Omit<NativeConvertPlan, "output">;
  metadata: ArchiveMetadata;
}

export interface ConvertOptions extends StoredForm {
  /** Bytes of weights done, of all: those brought into another type and those written. */
  onProgress?: (bytesDone: number, bytesTotal: number) => void;
  /** Looked at before each stage; the writing itself runs to its end. */
  signal?: AbortSignal;
  /** sha256 of weight files that is known already, by file name. */
  sha256?: Readonly<Record<string, string>>;
  /** Said in the archive. */
  origin?: SourceOrigin;
}

/** The plan of a Hugging Face folder. Throws ERR_CHECKPOINT, ERR_CONFIG, ERR_FAMILY_UNKNOWN, ERR_WEIGHTS_MISSING, ERR_WEIGHTS_SHAPE. */
export function planFromHuggingFace(folder: string, form: StoredForm = {}): ConversionPlan {
  const checkpoint = openHuggingFace(folder);
  return planOf(folder, checkpoint, huggingFaceTokenizerFiles(folder, checkpoint.config), form);
}

/** The plan of a GGUF file. Throws as planFromHuggingFace, and ERR_GGUF, ERR_GGUF_ARCHITECTURE, ERR_GGUF_TOKENIZER. */
export function planFromGguf(file: string, form: StoredForm = {}): ConversionPlan {
  const checkpoint = openGguf(file);
  return planOf(file, checkpoint, ggufTokenizerFiles(file, checkpoint.header), form);
}

/**
 * Converts a Hugging Face folder or a GGUF file into an archive at `output`, atomically: its weights as
 * they are, or with `dtype` and `quantize` its matrices otherwise (then they load as they are stored).
 * The archive names its source files with their sha256.
 *
 * Throws what planFrom() throws, ERR_CONVERT_READ, ERR_CONVERT_WRITE, TypeError for other words of
 * `dtype` and `quantize`; signal.reason.
 */
export async function convert(
  source: string,
  output: string,
  options: ConvertOptions = {},
): Promise<ArchiveMetadata> {
  const { signal } = options;
  signal?.throwIfAborted();
  const addon = loadAddon();
  const { plan, metadata } = planFrom(source, options);
  for (const file of metadata.source.files) {
    const path = join(statSync(source).isDirectory() ? source : dirname(source), file.name);
    file.sha256 = options.sha256?.[file.name] ?? (await sha256OfFile(path, signal));
  }
  Object.assign(metadata.source, options.origin);
  signal?.throwIfAborted();
  const extraFiles = plan.extraFiles.map((extra) =>
    extra.name === METADATA_FILE ? { name: extra.name, bytes: encodeJson(metadata) } : extra,
  );
  await addon.convert({ ...plan, extraFiles, output: resolve(output) }, options.onProgress ?? (() => {}));
  return metadata;
}

/** The plan of whatever the path is. Throws ERR_CHECKPOINT when it is neither. */
export function planFrom(source: string, form: StoredForm = {}): ConversionPlan {
  const info = statSync(source, { throwIfNoEntry: false });
  if (info?.isDirectory()) return planFromHuggingFace(source, form);
  if (info?.isFile() && (source.endsWith(".gguf") || isGguf(source))) return planFromGguf(source, form);
  throw new ModelError(
    "ERR_CHECKPOINT",
    `${source}: expected a Hugging Face folder or a .gguf file, got ${info ? "something else" : "nothing there"}`,
    { details: { path: source }, remedies: ["Check the path."] },
  );
}

/** sha256 of a file, hex. */
export async function sha256OfFile(path: string, signal?: AbortSignal): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) {
    signal?.throwIfAborted();
    hash.update(chunk as Uint8Array);
  }
  return hash.digest("hex");
}

const METADATA_FILE = "chatspace.json";

function planOf(
  where: string,
  checkpoint: Checkpoint,
  tokenizer: TokenizerBundle,
  wanted: StoredForm,
): ConversionPlan {
  const form = checkStoredForm(wanted);
  const { config, format, files } = checkpoint;
  const modelType = config.string("model_type");
  const family = familyOf(config.file, modelType);
  const build = new ArchiveBuilder(checkpoint.weights);
  const { experts = 0, ...shape } = family.plan(config, build);
  const { modules, cache } = build.finish(where);
  const dtype = storeAs(modules, form);
  const metadata: ArchiveMetadata = {
    format: ARCHIVE_FORMAT,
    family: family.source,
    architecture: modelType,
    ...shape,
    bosId: tokenizer.bosId,
    eosIds: tokenizer.eosIds,
    tokenizer: {
      files: tokenizer.files.map((file) => file.name),
      addBos: tokenizer.addBos,
      chatTemplate: tokenizer.hasChatTemplate,
    },
    source: {
      format,
      files: files.map((file) => ({ name: basename(file), bytes: statSync(file).size, sha256: null })),
    },
    ...(form.dtype === "auto" && form.quantize === "none" ? {} : { stored: form }),
    createdBy: `chatspace-steer ${packageVersion()}`,
    weights: weightTable(modules),
  };
  return {
    metadata,
    plan: {
      sources: readFamilySource(family.source, { layers: shape.layers, experts }),
      modules,
      dtype,
      cache,
      extraFiles: [{ name: METADATA_FILE, bytes: encodeJson(metadata) }, ...tokenizer.files],
    },
  };
}

function weightTable(modules: NativeConvertPlan["modules"]): ArchiveMetadata["weights"] {
  const table: ArchiveMetadata["weights"] = {};
  for (const { path, weights } of modules) {
    for (const { name, source } of weights) {
      if (!source) continue;
      const shape = source.transpose ? [...source.shape].reverse() : [...source.shape];
      if (source.rows >= 0) shape[0] = source.rows;
      table[path === "" ? name : `${path}.${name}`] = { type: source.store || source.type, shape };
    }
  }
  return table;
}

function encodeJson(value: unknown): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(value));
}

function packageVersion(): string {
  const text = readFileSync(new URL("../../package.json", import.meta.url), "utf8");
  return (JSON.parse(text) as { version: string }).version;
}
