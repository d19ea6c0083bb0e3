// SPDX-License-Identifier: Apache-2.0
// What to read while the model runs: sites, rows, pooling, and how the rows leave.

import { misuse } from "../errors.ts";
import type { NativeCapture, NativeCaptureStream } from "../native/contract.ts";
import { checkKeys, checkNumber, checkObject, checkOneOf } from "../steering/check.ts";
import { compilePhase, compilePositions, type Phase, type Position } from "../steering/scope.ts";
import { resolveSite, type SiteReference, type SiteTable } from "../steering/sites.ts";
import { compileMessages, type MessageReference } from "./capture-messages.ts";
import { type CaptureReduction, compileReduction } from "./capture-reduction.ts";
import type { MessageBoundary } from "./chat-template.ts";
import { type Capture, captureResults } from "./results.ts";
import type { CaptureHandler } from "./run.ts";

/** Which rows of which sites are read. */
export interface CaptureSelection {
  /** Layer numbers and site names; one answer each. */
  sites: readonly SiteReference[];
  /** Default "all": prompt rows and generated rows. */
  phase?: Phase;
  /** Positions and [start, end) ranges; negative from the end of the prompt. Default all. */
  positions?: readonly Position[];
  /** Of a conversation, in place of positions: messages by index (-1 = the last given), role or "answer". */
  messages?: MessageReference | readonly MessageReference[];
  /** "none" (default) gives every row; the others one row over the selected ones. */
  pool?: "none" | "mean" | "last" | "first";
  /** "message": a pooled row for each message (of `messages`, else of all and the answer), in their order. */
  poolBy?: "request" | "message";
  /** Numbers to keep of each row, computed on the device, instead of the whole row. */
  reduce?: CaptureReduction;
}

/** How much of a stream of captures is held where. */
export interface CaptureBuffering {
  /** Rows are joined to chunks of at least this many bytes; 0 = a chunk a step. Default 1 MiB. */
  chunkBytes?: number;
  /**
   * Most bytes of rows that wait for you, one row more at the least; default 64 MiB. The request is paused when half of it is used
   * and goes on when less is, other requests go on meanwhile.
   */
  bufferBytes?: number;
}

export interface CaptureOptions extends CaptureSelection, CaptureBuffering {
  /**
   * Takes the rows while the request runs, by site, in order and each once; the answer then has no
   * captures and nothing is held for the run. The next chunk waits for the promise it returns. What it
   * throws ends the request.
   */
  onRows?: (rows: Record<string, Capture>) => void | Promise<void>;
}

const POOL_BY = ["request", "message"] as const;
const POOLS = ["none", "mean", "last", "first"] as const;
export const SELECTION_KEYS = [
  "sites",
  "phase",
  "positions",
  "messages",
  "pool",
  "poolBy",
  "reduce",
] as const;
export const BUFFERING_KEYS = ["chunkBytes", "bufferBytes"] as const;
export const DEFAULT_CHUNK_BYTES = 1 << 20;
export const DEFAULT_BUFFER_BYTES = 64 << 20;

/** @throws SteeringError ERR_LAYER_RANGE, ERR_SITE_UNKNOWN, ERR_SCOPE; TypeError ERR_MESSAGES; RangeError. */
export function compileCaptures(
  given: CaptureOptions | undefined,
  table: SiteTable,
  promptLength: number,
  boundaries: () => readonly MessageBoundary[] | undefined,
): NativeCapture[] {
  if (given === undefined) return [];
  const options = checkObject("capture", given) as Partial<CaptureOptions>;
  checkKeys("capture", options, [...SELECTION_KEYS, ...BUFFERING_KEYS, "onRows"]);
  if (!Array.isArray(options.sites) || options.sites.length === 0)
    throw misuse(
      TypeError,
      "ERR_ARGUMENT_TYPE",
      "capture.sites",
      "at least one layer or site",
      options.sites,
    );
  const phase = compilePhase(options.phase ?? "all", "capture.phase");
  const pool = checkOneOf("capture.pool", options.pool ?? "none", POOLS);
  if (options.messages !== undefined && options.positions !== undefined)
    throw misuse(TypeError, "ERR_ARGUMENT_TYPE", "capture", "either positions or messages", "both");
  const byMessage = checkOneOf("capture.poolBy", options.poolBy ?? "request", POOL_BY) === "message";
  if (byMessage && (pool === "none" || options.positions !== undefined))
    throw misuse(
      TypeError,
      "ERR_ARGUMENT_TYPE",
      "capture.poolBy",
      "a pool and no positions",
      pool === "none" ? "no pool" : "positions",
    );
  const positions =
    options.messages === undefined && !byMessage
      ? compilePositions(options.positions, "capture.positions", promptLength)
      : compileMessages(options.messages, boundaries(), "capture.messages");
  // One capture a message: the engine pools them side by side, the answer joins their rows again.
  const parts = byMessage
    ? Array.from({ length: positions!.length / 2 }, (_, i) => positions!.slice(2 * i, 2 * i + 2))
    : [positions];
  // Asked for twice is read once: both names would be the same key of the answer.
  const sites = new Set(options.sites.map((site, i) => resolveSite(site, table, `capture.sites[${i}]`)));
  return [...sites].flatMap((site) => {
    const reduce = compileReduction(options.reduce, site, pool);
    return parts.map((part) => ({ site: site.name, phase, positions: part, pool, reduce }));
  });
}

/** How the rows leave: in the answer, or to onRows. */
export function compileCaptureHandler(given: CaptureOptions | undefined): {
  stream: NativeCaptureStream | null;
  onCaptures: CaptureHandler | undefined;
} {
  const buffering = compileBuffering("capture", given ?? {});
  const onRows: unknown = given?.onRows;
  if (onRows === undefined) return { stream: null, onCaptures: undefined };
  if (typeof onRows !== "function")
    throw misuse(TypeError, "ERR_ARGUMENT_TYPE", "capture.onRows", "a function", onRows);
  return {
    stream: buffering,
    onCaptures: ({ captures }) => (onRows as NonNullable<CaptureOptions["onRows"]>)(captureResults(captures)),
  };
}

export function compileBuffering(where: string, given: CaptureBuffering): NativeCaptureStream {
  const bytes = (key: "chunkBytes" | "bufferBytes", min: number, standard: number) =>
    given[key] === undefined
      ? standard
      : checkNumber(`${where}.${key}`, given[key], { integer: true, min, max: 2 ** 40 });
  return {
    chunkBytes: bytes("chunkBytes", 0, DEFAULT_CHUNK_BYTES),
    bufferBytes: bytes("bufferBytes", 1, DEFAULT_BUFFER_BYTES),
  };
}
