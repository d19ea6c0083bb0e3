// SPDX-License-Identifier: Apache-2.0
// Options that several commands share, and how they become the arguments of SteerModel.

import { type Command, InvalidArgumentError, Option } from "commander";
import type { LoadOptions } from "../model/load-options.ts";
import { DEFAULT_MODEL } from "../model/model-catalog.ts";
import type { GenerateOptions } from "../model/request.ts";
import type { SteerModel } from "../model/steer-model.ts";
import type { SteeringOperation } from "../steering/program.ts";
import type { SteeringVector } from "../steering/vector.ts";
import { progressBar } from "./terminal.ts";

export interface ModelFlags {
  model: string;
  device?: string;
  dtype?: LoadOptions["dtype"];
  quantize?: LoadOptions["quantize"];
  activations?: LoadOptions["activations"];
  cudaGraphs?: true;
  flashAttention?: true;
  reproducible?: true;
  threads?: number;
  layers?: string;
  tokenizer?: string;
}

export interface SteeringFlags {
  steering?: string;
  vector?: string;
  scale?: number;
  layer?: number;
  site?: string;
  op?: SteeringOperation["op"];
  min?: number;
  max?: number;
  phase?: "all" | "prompt" | "generation";
  keepNorm?: boolean;
}

export interface SamplingFlags {
  maxTokens?: number;
  temperature?: number;
  topK?: number;
  topP?: number;
  minP?: number;
  repetitionPenalty?: number;
  seed?: number;
  stop?: string[];
  ignoreEos?: boolean;
}

export function addModelOptions(command: Command): Command {
  return command
    .option(
      "-m, --model <name|path>",
      "archive (.pt), GGUF file, Hugging Face folder or model name",
      DEFAULT_MODEL,
    )
    .option("--device <device>", "cpu or cuda:N (default: cuda:0 if there is one)")
    .addOption(
      new Option("--dtype <dtype>", "dtype of weights and cache").choices([
        "auto",
        "float32",
        "bfloat16",
        "float16",
      ]),
    )
    .addOption(
      new Option("--quantize <how>", "matrices: as stored (auto on the CPU), none, int8, int4").choices([
        "auto",
        "none",
        "stored",
        "int8",
        "int4",
      ]),
    )
    .addOption(
      new Option(
        "--activations <how>",
        "products with quantised matrices: float32 is exact, int16 fast",
      ).choices(["auto", "float32", "int16"]),
    )
    .option("--cuda-graphs", "replay decode steps on CUDA from recorded graphs")
    .option("--flash-attention", "on CUDA in 16 bits: prompt chunks by libtorch's flash attention")
    .option("--reproducible", "on CUDA: the same bits alone and in any batch (the CPU is always so)")
    .option("--threads <n>", "threads (default: the cores this process may use)", positiveInteger)
    .option("--layers <path>", "module path of the layer list of a stranger's archive")
    .option("--tokenizer <folder>", "tokenizer.json and its kin, when the archive has none");
}

/** A program as text, one vector by flags, or both. */
export function addSteeringOptions(command: Command): Command {
  return addVectorOptions(
    command.option(
      "--steering <program>",
      'a program as text: "0.5 happy@layers.12-18 + cap(formal, 0..2) @generation"',
    ),
  );
}

/** One vector, by flags. */
export function addVectorOptions(command: Command): Command {
  return command
    .option("-v, --vector <name|file>", "steer with this vector: a name (happy) or a file")
    .option("-s, --scale <number>", "strength: h + scale * v (ablate: what is left, default 0)", number)
    .option(
      "-l, --layer <n>",
      "layer to steer, 0-based, -1 = last (default: every layer the vector has)",
      integer,
    )
    .option("--site <name>", "steer at a site instead, for example layers.16.mlp")
    .addOption(
      new Option("--op <op>", "what to do with the vector").choices(["add", "cap", "ablate", "replace"]),
    )
    .option("--min <number>", "cap: least projection", number)
    .option("--max <number>", "cap: largest projection", number)
    .addOption(new Option("--phase <phase>", "rows to act on").choices(["all", "prompt", "generation"]))
    .option("--keep-norm", "rescale each row to the length it had");
}

export function addSamplingOptions(command: Command): Command {
  return command
    .option("-n, --max-tokens <n>", "most tokens to generate", naturalNumber)
    .option("-t, --temperature <number>", "0 = most likely token", number)
    .option("--top-k <n>", "sample among the k most likely", naturalNumber)
    .option("--top-p <number>", "sample among the most likely that hold this probability", number)
    .option("--min-p <number>", "leave out tokens below this fraction of the likeliest", number)
    .option("--repetition-penalty <number>", "above 1 repeats less", number)
    .option("--seed <n>", "seed of the sampling", naturalNumber)
    .option("--stop <text>", "end at this text (repeatable)", collect)
    .option("--ignore-eos", "go on past the end-of-sequence token");
}

/** Loads the model of the flags, with a progress bar for a download or conversion. */
export async function loadModel(flags: ModelFlags, signal: AbortSignal): Promise<SteerModel> {
  const { SteerModel } = await import("../model/steer-model.ts");
  const bar = progressBar();
  try {
    return await SteerModel.load(flags.model, {
      ...defined({
        device: flags.device,
        dtype: flags.dtype,
        quantize: flags.quantize,
        activations: flags.activations,
        cudaGraphs: flags.cudaGraphs && "on",
        flashAttention: flags.flashAttention && "on",
        reproducible: flags.reproducible,
        threads: flags.threads,
        layers: flags.layers,
        tokenizer: flags.tokenizer,
      }),
      signal,
      onProgress: bar.onProgress,
    });
  } finally {
    bar.end();
  }
}

/** The program of the steering flags, that of --steering first; empty without --steering and --vector. */
export async function steeringOf(flags: SteeringFlags): Promise<SteeringOperation[]> {
  const { parseProgram, resolveProgram } = await import("../steering/program-text.ts");
  const { resolveVector } = await import("../steering/vector-names.ts");
  const program = flags.steering === undefined ? [] : await resolveProgram(parseProgram(flags.steering));
  if (flags.vector === undefined) return program;
  return [...program, operationOf(flags, await resolveVector(flags.vector))];
}

export function operationOf(flags: SteeringFlags, vector: SteeringVector): SteeringOperation {
  const { scale, layer, site, op, min, max, phase, keepNorm } = flags;
  const scope = phase === undefined ? undefined : { phase };
  return { vector, ...defined({ scale, layer, site, op, min, max, keepNorm, scope }) };
}

export function samplingOf(flags: SamplingFlags): GenerateOptions {
  const { maxTokens, temperature, topK, topP, minP, repetitionPenalty, seed, stop, ignoreEos } = flags;
  return defined({ maxTokens, temperature, topK, topP, minP, repetitionPenalty, seed, stop, ignoreEos });
}

/** The object without its undefined values, as exactOptionalPropertyTypes wants it. */
export function defined<T extends object>(value: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(value).filter(([, v]) => v !== undefined)) as never;
}

export function number(text: string): number {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value)) throw new InvalidArgumentError("Expected a number.");
  return value;
}

export function integer(text: string): number {
  const value = number(text);
  if (!Number.isSafeInteger(value)) throw new InvalidArgumentError("Expected an integer.");
  return value;
}

export function naturalNumber(text: string): number {
  const value = integer(text);
  if (value < 0) throw new InvalidArgumentError("Expected an integer from 0.");
  return value;
}

export function positiveInteger(text: string): number {
  const value = integer(text);
  if (value < 1) throw new InvalidArgumentError("Expected an integer from 1.");
  return value;
}

export function collect(value: string, before: string[] | undefined): string[] {
  return [...(before ?? []), value];
}
