// SPDX-License-Identifier: Apache-2.0
// Options of SteerModel.load: checks and defaults.

import { misuse } from "../errors.ts";
import type {
  NativeActivations,
  NativeAddon,
  NativeCudaGraphs,
  NativeDtype,
  NativeFlashAttention,
  NativeLoadOptions,
  NativeQuantize,
} from "../native/contract.ts";
import {
  checkBoolean,
  checkKeys,
  checkNumber,
  checkObject,
  checkOneOf,
  checkString,
} from "../steering/check.ts";
import type { ProgressEvent } from "./progress.ts";
import { usableCores } from "./threads.ts";

export interface LoadOptions {
  /** "cpu" or "cuda:N". Default: the first CUDA device if there is one, else "cpu". */
  device?: string;
  /** Dtype of weights and KV cache; "auto" (default) keeps what the archive holds. */
  dtype?: NativeDtype | "auto";
  /**
   * Weight-only quantisation of our own archives. "stored" keeps the 8- and 4-bit blocks of a GGUF source as
   * they are: on the CPU the same logits as float32, bit for bit, at their size and speed. "int8" and
   * "int4" quantise at load. Default "auto": "stored" when dtype is "auto" and the device is the CPU.
   */
  quantize?: NativeQuantize | "auto";
  /**
   * How products with quantised matrices read their activations (docs/numerics.md). "float32": the same logits
   * as the float32 copy of the matrices, bit for bit. "int16": each block of 32 as 16-bit integers with a scale,
   * about twice as fast at four bits, its error a hundredth of what 8-bit weights cost; needs quantised matrices
   * (ERR_ACTIVATIONS). Default "auto": "int16" for quantize "int8" and "int4", at load or at conversion, on the
   * CPU, else "float32".
   */
  activations?: NativeActivations | "auto";
  /**
   * Threads of this model when it works alone. Default: the cores this process may use (affinity, cgroup).
   * Models that work at once in one process share those cores; answers do not depend on it.
   */
  threads?: number;
  /** Module path of the numbered layer list of a stranger's archive. Default: the longest one. */
  layers?: string;
  /** Folder with tokenizer.json, or that file; default: the files inside the archive. */
  tokenizer?: string;
  /** Bytes of KV cache that may be taken; 0 (default) = a quarter of the free memory. */
  cacheBytes?: number;
  /** Most tokens of one engine step. Default 512. */
  tokenBudget?: number;
  /** Most requests that run at once; more wait. Default 64. */
  maxBatch?: number;
  /**
   * "on": decode steps of our own archives on CUDA are recorded once in CUDA graphs and replayed, with any
   * programs, for the same results as eager. Default "off". An error on the CPU (ERR_GRAPHS_DEVICE) and for
   * strangers' archives and mixtures of experts (ERR_GRAPHS_MODEL).
   */
  cudaGraphs?: NativeCudaGraphs;
  /**
   * "on": prompt chunks of 64 rows and more, in bfloat16 or float16 on CUDA, go to libtorch's flash attention
   * (tensor cores), which rounds queries and weights to 16 bits; other rows and layers that it cannot compute
   * stay with our kernels. stats().flashLayers counts. Default "off". An error where no layer could ever go
   * there (ERR_FLASH_ATTENTION).
   */
  flashAttention?: NativeFlashAttention;
  /**
   * CUDA: a request's logits have the same bits alone, in any batch and in any chunks, at a cost in speed.
   * Default false. Always so on the CPU.
   */
  reproducible?: boolean;
  /** A vector made from other weights is an error (ERR_VECTOR_MODEL) instead of a warning. */
  strictVectors?: boolean;
  /** Ends a download or a load; its reason is what is thrown. */
  signal?: AbortSignal;
  /** Told how a download or conversion goes. */
  onProgress?: (event: ProgressEvent) => void;
}

export interface CompiledLoad {
  native: Omit<NativeLoadOptions, "path" | "device" | "quantize"> & {
    device: string | undefined;
    quantize: NativeQuantize | "auto";
  };
  tokenizer: string | undefined;
  strictVectors: boolean;
  signal: AbortSignal | undefined;
  onProgress: ((event: ProgressEvent) => void) | undefined;
}

const KEYS = [
  "device",
  "dtype",
  "quantize",
  "activations",
  "threads",
  "layers",
  "tokenizer",
  "cacheBytes",
  "tokenBudget",
  "maxBatch",
  "cudaGraphs",
  "flashAttention",
  "reproducible",
  "strictVectors",
  "signal",
  "onProgress",
] as const;

const QUANTIZE = ["auto", "none", "stored", "int8", "int4"] as const;
const ACTIVATIONS = ["auto", "float32", "int16"] as const;
const CUDA_GRAPHS = ["off", "on"] as const;
const FLASH_ATTENTION = ["off", "on"] as const;
const DTYPES = ["auto", "float32", "bfloat16", "float16"] as const;

/** @throws TypeError / RangeError naming the option; signal.reason when it has fired. */
export function compileLoad(given: unknown): CompiledLoad {
  const options = checkObject("SteerModel.load", given) as LoadOptions;
  const { signal, onProgress } = options;
  if (signal !== undefined && !(signal instanceof AbortSignal))
    throw misuse(TypeError, "ERR_ARGUMENT_TYPE", "signal", "an AbortSignal", signal);
  signal?.throwIfAborted();
  checkKeys("SteerModel.load", options, KEYS);
  if (onProgress !== undefined && typeof onProgress !== "function")
    throw misuse(TypeError, "ERR_ARGUMENT_TYPE", "onProgress", "a function", onProgress);
  const integer = (
    key: "threads" | "cacheBytes" | "tokenBudget" | "maxBatch",
    otherwise: number,
    min: number,
    max: number,
  ) => (options[key] === undefined ? otherwise : checkNumber(key, options[key], { integer: true, min, max }));
  return {
    native: {
      device: options.device === undefined ? undefined : checkDevice(options.device),
      dtype: options.dtype === undefined ? "auto" : checkOneOf("dtype", options.dtype, DTYPES),
      quantize: options.quantize === undefined ? "auto" : checkOneOf("quantize", options.quantize, QUANTIZE),
      activations:
        options.activations === undefined
          ? "auto"
          : checkOneOf("activations", options.activations, ACTIVATIONS),
      threads: integer("threads", usableCores(), 1, 1024),
      layersPath: options.layers === undefined ? null : checkString("layers", options.layers),
      cacheBytes: integer("cacheBytes", 0, 0, Number.MAX_SAFE_INTEGER),
      tokenBudget: integer("tokenBudget", 512, 1, 1 << 20),
      maxBatch: integer("maxBatch", 64, 1, 1 << 16),
      cudaGraphs:
        options.cudaGraphs === undefined ? "off" : checkOneOf("cudaGraphs", options.cudaGraphs, CUDA_GRAPHS),
      flashAttention:
        options.flashAttention === undefined
          ? "off"
          : checkOneOf("flashAttention", options.flashAttention, FLASH_ATTENTION),
      reproducible:
        options.reproducible === undefined ? false : checkBoolean("reproducible", options.reproducible),
    },
    tokenizer: options.tokenizer === undefined ? undefined : checkString("tokenizer", options.tokenizer),
    strictVectors:
      options.strictVectors === undefined ? false : checkBoolean("strictVectors", options.strictVectors),
    signal,
    onProgress,
  };
}

/** What "auto" stands for on this device. */
export function resolveQuantize(native: CompiledLoad["native"], device: string): NativeQuantize {
  if (native.quantize !== "auto") return native.quantize;
  return native.dtype === "auto" && device === "cpu" ? "stored" : "none";
}

/** The first CUDA device if the addon sees one, else the CPU. */
export function defaultDevice(addon: NativeAddon): string {
  const first = addon.machine().cuda[0];
  return first === undefined ? "cpu" : `cuda:${first.index}`;
}

function checkDevice(value: unknown): string {
  if (typeof value === "string" && /^(cpu|cuda(:\d+)?)$/.test(value))
    return value === "cuda" ? "cuda:0" : value;
  throw misuse(TypeError, "ERR_ARGUMENT_TYPE", "device", '"cpu" or "cuda:N"', value);
}
