// SPDX-License-Identifier: Apache-2.0
// captureToFile(): hidden states of many prompts into one file that is written while the model runs.
// Formats: docs/formats.md, "Captures".

import { extname } from "node:path";
import { misuse } from "../errors.ts";
import type { ArrowColumn, ArrowValues } from "../formats/arrow-rows.ts";
import { float32ToBfloat16, float32ToFloat16 } from "../formats/half.ts";
import { npyHeader } from "../formats/npy.ts";
import { RowsFile, type RowsFileLayout } from "../formats/rows-file.ts";
import { safetensorsHeader } from "../formats/safetensors.ts";
import { asBytes, DTYPE_BYTES, type TensorDtype } from "../formats/tensor.ts";
import { checkOneOf, checkString } from "../steering/check.ts";
import { messageOf } from "./capture-messages.ts";
import { type CaptureRun, type CaptureStreamOptions, mostRowsOf, valuesOf } from "./capture-run.ts";
import type { CaptureChunk, CaptureEnd } from "./capture-stream.ts";
import type { RequestModel } from "./request.ts";

export interface CaptureFileOptions extends Omit<CaptureStreamOptions, "order"> {
  /** What the rows are stored as, rounded to nearest even; default "float32". No bfloat16 in Arrow. */
  dtype?: "float32" | "bfloat16" | "float16";
  /** Told of each prompt's answer, in the order they end. */
  onResult?: (prompt: number, result: CaptureEnd) => void;
}

export interface CapturedFile {
  path: string;
  prompts: number;
  /** Rows of every site. */
  rows: number;
  /** By site: [rows, values of a row]. */
  shapes: Record<string, [rows: number, values: number]>;
}

/** A chunk is a write a column: fewer and larger ones than a stream's. */
export const FILE_CHUNK_BYTES = 8 << 20;

type Store = "float32" | "bfloat16" | "float16";
const STORES = ["float32", "bfloat16", "float16"] as const;
const STORED: Record<Store, TensorDtype> = { float32: "F32", bfloat16: "BF16", float16: "F16" };

interface Column {
  name: string;
  dtype: TensorDtype;
  /** null = one number a row. */
  values: number | null;
  of: (chunk: CaptureChunk) => Int32Array | Float32Array | Uint16Array;
}

interface Sink {
  write: (chunk: CaptureChunk) => Promise<void>;
  finish: () => Promise<number>;
  abandon: () => Promise<void>;
}

/**
 * Writes a run to `path` (.safetensors, .arrow, .npy for one site).
 * @throws DataError ERR_FILE_WRITE, EnvironmentError ERR_DISK_FULL, and as captureStream(); nothing stands
 *   under the name then.
 */
export async function captureToFile(
  path: unknown,
  run: CaptureRun,
  model: RequestModel,
  options: Pick<CaptureFileOptions, "dtype" | "onResult">,
): Promise<CapturedFile> {
  const file = checkString("captureToFile", path);
  const store = checkOneOf("dtype", options.dtype ?? "float32", STORES);
  const plan = planOf(run, model);
  const columns = columnsOf(run, model, store, plan.conversations);
  const sink = await openSink(file, columns, store, plan.mostRows, {
    format: "chatspace-capture",
    version: "1",
    base_model: model.name,
    weight_hash: model.weightHash,
    prompts: String(run.prompts.length),
  });
  try {
    for await (const chunk of run.stream()) {
      if (chunk.result) options.onResult?.(chunk.prompt, chunk.result);
      else await sink.write(chunk);
    }
    const rows = await sink.finish();
    const sites = columns.filter(({ name, values }) => values !== null && !name.endsWith(".indices"));
    return {
      path: file,
      prompts: run.prompts.length,
      rows,
      shapes: Object.fromEntries(sites.map(({ name, values }) => [name, [rows, values!]])),
    };
  } catch (error) {
    await sink.abandon();
    throw error;
  }
}

/** Files whose columns are blocks take rows as they are made; Arrow wants them in order. */
export function fileOrder(path: unknown): "prompts" | "made" {
  return typeof path === "string" && extname(path).toLowerCase() === ".arrow" ? "prompts" : "made";
}

function planOf(run: CaptureRun, model: RequestModel): { mostRows: number[]; conversations: boolean } {
  let conversations = false;
  const rows = run.prompts.map((_, index) => {
    const request = run.compile(index);
    conversations ||= request.boundaries() !== undefined;
    return mostRowsOf(request, model);
  });
  return { mostRows: rows, conversations };
}

function columnsOf(run: CaptureRun, model: RequestModel, store: Store, conversations: boolean): Column[] {
  const { captures } = run.compile(0).native;
  const first = captures[0]!.site;
  const positions = (chunk: CaptureChunk) => chunk.captures[first]!.positions;
  const columns: Column[] = [
    {
      ...{ name: "text", dtype: "I32", values: null },
      of: (chunk) => new Int32Array(positions(chunk).length).fill(chunk.prompt),
    },
    { name: "position", dtype: "I32", values: null, of: positions },
  ];
  if (conversations)
    columns.push({ name: "message", dtype: "I32", values: null, of: messagesOf(run, positions) });
  // Of a site that is pooled by message each message has a capture of its own.
  for (const capture of captures.filter(
    (each, i) => captures.findIndex(({ site }) => site === each.site) === i,
  )) {
    const values = valuesOf(capture, model);
    const { site, reduce } = capture;
    if (reduce && reduce.topK > 0)
      columns.push({
        ...{ name: `${site}.indices`, dtype: "I32", values },
        of: (chunk) => chunk.captures[site]!.indices!,
      });
    columns.push({
      ...{ name: site, dtype: STORED[store], values },
      of: (chunk) => {
        const { data } = chunk.captures[site]!;
        if (store === "float32") return data;
        return store === "float16" ? float32ToFloat16(data) : float32ToBfloat16(data);
      },
    });
  }
  return columns;
}

/** Index of the message of each row, the number of messages for the answer, -1 without a conversation. */
function messagesOf(run: CaptureRun, positions: (chunk: CaptureChunk) => Int32Array): Column["of"] {
  const known = new Map<number, ReturnType<ReturnType<CaptureRun["compile"]>["boundaries"]>>();
  return (chunk) => {
    if (!known.has(chunk.prompt)) {
      // Prompts end about in the order they start: what is far behind is not asked for again.
      if (known.size >= 256) known.delete(known.keys().next().value!);
      known.set(chunk.prompt, run.compile(chunk.prompt).boundaries());
    }
    const boundaries = known.get(chunk.prompt);
    return positions(chunk).map((position) => (boundaries ? messageOf(position, boundaries) : -1));
  };
}

async function openSink(
  path: string,
  columns: readonly Column[],
  store: Store,
  rows: readonly number[],
  metadata: Record<string, string>,
): Promise<Sink> {
  const ending = extname(path).toLowerCase();
  if (ending === ".arrow") {
    if (store === "bfloat16")
      throw misuse(TypeError, "ERR_ARGUMENT_TYPE", "dtype", "float32 or float16 for an Arrow file", store);
    return arrowSink(path, columns, metadata);
  }
  if (ending === ".safetensors") {
    // Bytes of the wider dtype first keep every tensor aligned.
    const aligned = [...columns].sort((a, b) => DTYPE_BYTES[b.dtype] - DTYPE_BYTES[a.dtype]);
    const header = (count: number, bytes?: number) =>
      safetensorsHeader(
        aligned.map(({ name, dtype, values }) => ({
          name,
          dtype,
          shape: values === null ? [count] : [count, values],
        })),
        metadata,
        bytes,
      );
    return blockSink(path, aligned, rows, header);
  }
  if (ending !== ".npy")
    throw misuse(
      TypeError,
      "ERR_ARGUMENT_TYPE",
      "captureToFile",
      "a file that ends in .safetensors, .arrow or .npy",
      path,
    );
  const only = columns.filter(({ values }) => values !== null);
  if (only.length > 1)
    throw misuse(
      TypeError,
      "ERR_ARGUMENT_TYPE",
      "captureToFile",
      "one site for a .npy file",
      `${only.length} columns`,
    );
  const { dtype, values } = only[0]!;
  return blockSink(path, only, rows, (count, bytes) => npyHeader(dtype, [count, values!], bytes));
}

async function blockSink(
  path: string,
  columns: readonly Column[],
  rows: readonly number[],
  header: RowsFileLayout["header"],
): Promise<Sink> {
  const file = await RowsFile.create(path, {
    header,
    rowBytes: columns.map(({ dtype, values }) => DTYPE_BYTES[dtype] * (values ?? 1)),
    mostRows: rows,
  });
  return {
    write: (chunk) =>
      file.write(
        chunk.prompt,
        columns.map(({ of }) => asBytes(of(chunk))),
      ),
    finish: () => file.finish(),
    abandon: () => file.abandon(),
  };
}

async function arrowSink(
  path: string,
  columns: readonly Column[],
  metadata: Record<string, string>,
): Promise<Sink> {
  const { ArrowRowsFile } = await import("../formats/arrow-rows.ts");
  const types = { I32: "int32", F32: "float32", F16: "float16" } as Partial<
    Record<TensorDtype, ArrowColumn["type"]>
  >;
  const file = await ArrowRowsFile.create(
    path,
    columns.map(({ name, dtype, values }) => ({ name, type: types[dtype]!, list: values })),
    metadata,
  );
  return {
    write: (chunk) => {
      const values: ArrowValues[] = columns.map(({ of }) => of(chunk));
      return file.write(values[1]!.length, values);
    },
    finish: () => file.finish(),
    abandon: () => file.abandon(),
  };
}
