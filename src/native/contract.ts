// SPDX-License-Identifier: Apache-2.0
// The whole boundary between TypeScript and the addon, with the files of contract/. `npm run check:contract` compares it with what
// the addon exports. Everything that crosses is a typed array or a fully defaulted plain object:
// TypeScript has checked it, C++ re-checks only what could corrupt memory.

import type { NativeConvertPlan } from "./contract/convert.ts";
import type { NativeEvent } from "./contract/events.ts";
import type { NativeLoadOptions, NativeModelInfo } from "./contract/load.ts";
import type { NativeRequest } from "./contract/request.ts";
import type { NativeOperatorProfile, NativeStats } from "./contract/stats.ts";

export type * from "./contract/convert.ts";
export type * from "./contract/events.ts";
export type * from "./contract/load.ts";
export type * from "./contract/request.ts";
export type * from "./contract/stats.ts";

/** A loaded model: one executor thread, which alone touches the device. Freed by dispose(). */
export interface NativeModel {
  readonly info: NativeModelInfo;
  /** Extra file of the archive ("tokenizer.json", ...), or null. */
  extraFile(name: string): Uint8Array | null;
  /** Bytes of each token, for stop strings: offsets [vocab + 1] into bytes. */
  setTokenBytes(bytes: Uint8Array, offsets: Int32Array): void;
  /** Queues a request; events arrive on this thread, the last one is "done" or "error". Returns its id. */
  submit(request: NativeRequest, onEvent: (event: NativeEvent) => void): number;
  /** Ends a request at the next step boundary with finish "aborted". Unknown ids are ignored. */
  abort(id: number): void;
  /** Bytes of a request's captures events that have been dealt with. Unknown ids are ignored. */
  acknowledge(id: number, bytes: number): void;
  /**
   * While on, new requests wait (20 ms at most), so that those submitted together start in one step; what runs
   * goes on.
   */
  hold(on: boolean): void;
  /** Every submodule path with its class name. */
  moduleTree(): { path: string; type: string }[];
  stats(): NativeStats;
  /** Aborts what runs, joins the thread, frees the memory. Idempotent. */
  dispose(): Promise<void>;
}

export interface NativeAddon {
  readonly versions: { addon: string; torch: string; napi: number; contract: number };
  /** Instruction sets found and used, cores this process may use, CUDA devices (empty without CUDA). */
  machine(): { isa: string; cores: number; cuda: { index: number; name: string; bytes: number }[] };
  load(options: NativeLoadOptions): Promise<NativeModel>;
  /** Progress: source bytes brought into another type, then bytes written, of the sum of both. */
  convert(
    plan: NativeConvertPlan,
    onProgress: (bytesDone: number, bytesTotal: number) => void,
  ): Promise<void>;
  /** GGUF or safetensors elements as float32 (for vectors, checks and tests). */
  dequantize(type: string, bytes: Uint8Array, elements: number): Float32Array;
  /** GB/s of a plain threaded read loop over `bytes` of memory, best of `runs`. */
  readBandwidth(bytes: number, threads: number, runs: number): number;
  /**
   * Where the steps of all models of the process spend their time. "start" counts from zero, "stop" ends;
   * every call returns what was counted until then. Off (the default) it costs nothing.
   */
  profile(action: "start" | "read" | "stop"): NativeOperatorProfile[];
  /**
   * The ends of the steps since the profile was started, oldest first, the last 16,384 of them: [steps, 3 +
   * operators] row-major. Columns: rows of the step, nanoseconds of the clock, nanoseconds of processor time of
   * the whole process, then each operator's own nanoseconds so far, in the order of profile().
   */
  profileSteps(): Float64Array;
}

/** Raised when contract.ts and the addon differ. */
export const CONTRACT_VERSION = 1;
