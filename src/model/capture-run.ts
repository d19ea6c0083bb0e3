// SPDX-License-Identifier: Apache-2.0
// captureStream(): what may be asked for, checked at the call, and the run of each prompt.

import { misuse } from "../errors.ts";
import type { NativeCapture, NativeModel } from "../native/contract.ts";
import { checkNumber, checkOneOf } from "../steering/check.ts";
import {
  BUFFERING_KEYS,
  type CaptureBuffering,
  type CaptureOptions,
  type CaptureSelection,
  compileBuffering,
  DEFAULT_BUFFER_BYTES,
  SELECTION_KEYS,
} from "./capture-options.ts";
import { type CaptureChunk, type CaptureEnd, streamCaptures } from "./capture-stream.ts";
import { generate } from "./generation.ts";
import { runForward } from "./passes.ts";
import { isPromptList, type Prompt } from "./prompt.ts";
import {
  type CompiledRequest,
  compileGenerate,
  compilePass,
  GENERATE_KEYS,
  type GenerateOptions,
  openOptions,
  type RequestModel,
} from "./request.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** Selection and buffering of the rows, and the options of generate(). */
export interface CaptureStreamOptions
  extends CaptureSelection,
    CaptureBuffering,
    Omit<GenerateOptions, "capture" | "probes"> {
  /** Tokens to generate after each prompt; default 0, the prompts alone. */
  maxTokens?: number;
  /** Prompts that run at once; default 32. */
  together?: number;
  /** "prompts" (default): all rows of one prompt, then those of the next. "made": as they are made. */
  order?: "prompts" | "made";
  /** Most bytes of rows that wait for you, over all prompts; default 256 MiB, 64 MiB a prompt. */
  bufferBytes?: number;
}

export const CAPTURE_STREAM_KEYS = [
  ...GENERATE_KEYS.filter((key) => key !== "capture" && key !== "probes"),
  ...SELECTION_KEYS,
  ...BUFFERING_KEYS,
  "together",
  "order",
] as const;

const TOGETHER = 32;
const ALL_BUFFERS = 256 << 20;
const ORDERS = ["prompts", "made"] as const;

/** A run that has been checked. */
export interface CaptureRun {
  prompts: readonly Prompt[];
  /** Of each prompt: what the engine is asked for. Made anew at each call, held by nobody. */
  compile: (prompt: number, onRows?: CaptureOptions["onRows"]) => CompiledRequest;
  stream: () => AsyncGenerator<CaptureChunk, void, undefined>;
}

/** @throws as generate(), for every prompt, before any work. */
export function openCaptureRun(
  native: () => NativeModel,
  model: RequestModel,
  tokenizer: Tokenizer | undefined,
  given: Prompt | readonly Prompt[],
  options: Partial<CaptureStreamOptions>,
): CaptureRun {
  const prompts = isPromptList(given) ? given : [given as Prompt];
  const {
    sites,
    phase,
    positions,
    messages,
    pool,
    poolBy,
    reduce,
    chunkBytes,
    bufferBytes,
    together,
    order,
    ...rest
  } = options;
  if (sites === undefined)
    throw misuse(TypeError, "ERR_ARGUMENT_TYPE", "capture.sites", "at least one layer or site", sites);
  const most =
    together === undefined ? TOGETHER : checkNumber("together", together, { integer: true, min: 1 });
  const side = Math.min(most, prompts.length);
  const buffering = compileBuffering("capture", {
    ...(chunkBytes === undefined ? {} : { chunkBytes }),
    bufferBytes: bufferBytes ?? ALL_BUFFERS,
  });
  const share = Math.max(1, Math.floor(buffering.bufferBytes / side));
  const selection = Object.fromEntries(
    Object.entries({ sites, phase, positions, messages, pool, poolBy, reduce }).filter(
      ([, value]) => value !== undefined,
    ),
  ) as unknown as CaptureSelection;
  const maxTokens = rest.maxTokens ?? 0;
  const compile: CaptureRun["compile"] = (index, onRows = () => undefined) => {
    const capture = {
      ...selection,
      chunkBytes: buffering.chunkBytes,
      bufferBytes: bufferBytes === undefined ? Math.min(share, DEFAULT_BUFFER_BYTES) : share,
      onRows,
    };
    const prompt = prompts[index]!;
    if (maxTokens !== 0) return compileGenerate(model, prompt, { ...rest, capture });
    return compilePass(model, prompt, { ...rest, capture }, { logits: "none", promptLogprobs: false });
  };
  for (const index of prompts.keys()) compile(index);
  return {
    prompts,
    compile,
    stream: () =>
      streamCaptures({
        prompts: prompts.length,
        together: side,
        order: checkOneOf("order", order ?? "prompts", ORDERS),
        signal: rest.signal,
        start: (index, onRows, signal): Promise<CaptureEnd> => {
          const request = { ...compile(index, onRows), signal };
          return maxTokens !== 0
            ? generate(native(), request, tokenizer)
            : runForward(native(), model, request);
        },
      }),
  };
}

export function openCaptureOptions(where: string, given: unknown): Partial<CaptureStreamOptions> {
  return openOptions<GenerateOptions>(where, given, CAPTURE_STREAM_KEYS) as Partial<CaptureStreamOptions>;
}

/** Values of one row in the answer. */
export function valuesOf({ site, reduce }: NativeCapture, model: RequestModel): number {
  const width = model.sites.find(({ name }) => name === site)!.width;
  if (reduce === null) return width;
  if (reduce.topK > 0) return reduce.topK;
  return reduce.weight ? reduce.weight.length / width : model.vocabSize;
}

/** Most rows a site can bring, over all its captures. */
export function mostRowsOf(request: CompiledRequest, model: RequestModel): number {
  const [first, ...others] = request.native.captures;
  return [first!, ...others.filter(({ site }) => site === first!.site)].reduce(
    (sum, capture) => sum + mostRows(capture, request, model),
    0,
  );
}

/** Most rows a capture can bring: positions it selects up to the longest the sequence may become. */
function mostRows(
  { phase, positions, pool }: NativeCapture,
  request: CompiledRequest,
  model: RequestModel,
): number {
  const prompt = request.prompt.tokens.length;
  const wanted = prompt + Math.max(0, request.native.maxTokens - 1);
  const longest = model.contextLength > 0 ? Math.min(wanted, model.contextLength) : wanted;
  const from = phase === "generation" ? prompt : 0;
  const to = phase === "prompt" ? prompt : Math.max(prompt, longest);
  let rows = 0;
  if (positions === null) rows = Math.max(0, to - from);
  else {
    const pairs = Array.from({ length: positions.length / 2 }, (_, i) => [
      positions[2 * i]!,
      positions[2 * i + 1]!,
    ]);
    let end = from;
    for (const [first, last] of pairs.sort((a, b) => a[0]! - b[0]!)) {
      const [start, stop] = [Math.max(first!, end), Math.min(last!, to)];
      if (stop <= start) continue;
      rows += stop - start;
      end = stop;
    }
  }
  return pool === "none" ? rows : Math.min(rows, 1);
}
