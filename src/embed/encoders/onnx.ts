// SPDX-License-Identifier: Apache-2.0
// ONNX sentence encoders by onnxruntime: one session, used by one caller. Its calls hold the thread they
// are made on, which is why the pipeline runs them in lanes (onnx-lanes.ts).

import { InferenceSession, Tensor } from "onnxruntime-node";
import { DeviceError, ModelError } from "../../errors.ts";
import { type Batch, planBatches } from "../batching.ts";
import type { Pooling } from "../config.ts";
import type { BatchLimits, EncodeRequest, EncodeResult, Encoder, ModelSpec } from "./encoder.ts";
import { normalizeRow, poolRow } from "./pooling.ts";

interface OnnxOptions {
  device: string;
  threads: number;
  limits: BatchLimits;
}

/** Opens an ONNX file for a model; the CUDA provider is used for "cuda" devices. */
export async function openOnnxEncoder(spec: ModelSpec, options: OnnxOptions): Promise<Encoder> {
  const cuda = /^cuda(?::(\d+))?$/.exec(options.device);
  let session: InferenceSession;
  try {
    session = await InferenceSession.create(spec.path, {
      executionProviders: cuda ? [{ name: "cuda", deviceId: Number(cuda[1] ?? 0) }] : ["cpu"],
      intraOpNumThreads: options.threads,
      interOpNumThreads: 1,
      executionMode: "sequential",
      graphOptimizationLevel: "all",
      // Shapes change with every batch: patterns would be planned anew each time, and kept.
      enableMemPattern: false,
      extra: { session: { intra_op: { allow_spinning: "0" }, set_denormal_as_zero: "0" } },
    });
  } catch (error) {
    const message = (error as Error).message;
    if (cuda && /cuda|provider/i.test(message)) {
      throw new DeviceError("ERR_DEVICE_PROVIDER", `onnxruntime cannot use ${options.device}: ${message}`, {
        details: { device: options.device },
        remedies: [
          "use --device cpu",
          "install onnxruntime's CUDA provider: npm rebuild onnxruntime-node with network access",
        ],
        cause: error,
      });
    }
    throw new ModelError("ERR_MODEL_UNREADABLE", `${spec.path} cannot be loaded: ${message}`, {
      details: { path: spec.path },
      remedies: ["fetch or export the model again", "check that the file is complete"],
      cause: error,
    });
  }
  return new OnnxEncoder(spec, session, options.limits);
}

const MASK_NAMES = ["attention_mask"];

class OnnxEncoder implements Encoder {
  readonly wantsText = false;
  readonly #spec: ModelSpec;
  readonly #session: InferenceSession;
  readonly #limits: BatchLimits;
  readonly #output: string;

  constructor(spec: ModelSpec, session: InferenceSession, limits: BatchLimits) {
    this.#spec = spec;
    this.#session = session;
    this.#limits = limits;
    const known = ["input_ids", "token_type_ids", "position_ids", ...MASK_NAMES];
    const strange = session.inputNames.filter((name) => !known.includes(name));
    if (strange.length > 0 || !session.inputNames.includes("input_ids")) {
      throw new ModelError(
        "ERR_MODEL_INPUTS",
        `${spec.path} wants the inputs ${session.inputNames.join(", ")}`,
        {
          details: { inputs: [...session.inputNames], known },
          remedies: ["export the encoder for feature extraction, without a key-value cache"],
        },
      );
    }
    const wanted =
      spec.pooling === "model"
        ? ["sentence_embedding", "pooler_output"]
        : ["last_hidden_state", "token_embeddings", "hidden_states"];
    const found = wanted.find((name) => session.outputNames.includes(name)) ?? session.outputNames[0];
    if (found === undefined) throw new ModelError("ERR_MODEL_INPUTS", `${spec.path} has no output`);
    this.#output = found;
  }

  async #run(request: EncodeRequest, batch: Batch): Promise<Tensor> {
    const ids = request.ids as Int32Array;
    const offsets = request.offsets as Int32Array;
    const size = batch.rows.length * batch.length;
    const feeds: Record<string, Tensor> = {};
    const dims = [batch.rows.length, batch.length];
    // int64 tensors filled through their low words: ids are never negative.
    const input = new Int32Array(size * 2);
    const mask = new Int32Array(size * 2);
    for (let row = 0; row < batch.rows.length; row++) {
      const from = offsets[batch.rows[row] as number] as number;
      const to = offsets[(batch.rows[row] as number) + 1] as number;
      const base = row * batch.length * 2;
      for (let token = 0; token < batch.length; token++) {
        const real = from + token < to;
        input[base + token * 2] = real ? (ids[from + token] as number) : this.#spec.padId;
        mask[base + token * 2] = real ? 1 : 0;
      }
    }
    for (const name of this.#session.inputNames) {
      let data: Int32Array;
      if (name === "input_ids") data = input;
      else if (MASK_NAMES.includes(name)) data = mask;
      else {
        data = new Int32Array(size * 2);
        if (name === "position_ids") for (let i = 0; i < size; i++) data[i * 2] = i % batch.length;
      }
      feeds[name] = new Tensor("int64", new BigInt64Array(data.buffer), dims);
    }
    const results = await this.#session.run(feeds, [this.#output]);
    return results[this.#output] as Tensor;
  }

  #pool(request: EncodeRequest, batch: Batch, output: Tensor, out: Float32Array, dim: number): void {
    const offsets = request.offsets as Int32Array;
    const data = output.data as Float32Array;
    const { pooling, normalize } = this.#spec;
    const lengths = Array.from(batch.rows, (row) => (offsets[row + 1] as number) - (offsets[row] as number));
    for (let row = 0; row < batch.rows.length; row++) {
      const at = (batch.rows[row] as number) * dim;
      if (output.dims.length === 2) out.set(data.subarray(row * dim, (row + 1) * dim), at);
      else poolRow({ data, length: batch.length, dim, lengths }, row, pooling as Pooling, out, at);
      if (normalize) normalizeRow(out, at, dim);
    }
  }

  async encode(request: EncodeRequest): Promise<EncodeResult> {
    const offsets = request.offsets as Int32Array;
    const batches = planBatches(offsets, this.#limits);
    let out: Float32Array | null = null;
    let dim = 0;
    let padded = 0;
    const finish = (batch: Batch, output: Tensor): void => {
      dim = output.dims.at(-1) as number;
      out ??= new Float32Array(request.rows * dim);
      this.#pool(request, batch, output, out, dim);
      output.dispose();
      const rows = batch.rows.length;
      const tokens = batch.rows.reduce(
        (sum, row) => sum + (offsets[row + 1] as number) - (offsets[row] as number),
        0,
      );
      request.onBatch?.({ rows, tokens, paddedTokens: rows * batch.length });
    };
    for (const batch of batches) {
      padded += batch.rows.length * batch.length;
      finish(batch, await this.#run(request, batch));
    }
    return {
      embeddings: out ?? new Float32Array(0),
      dim,
      tokens: (request.ids as Int32Array).length,
      paddedTokens: padded,
      batches: batches.length,
    };
  }

  async warmUp(lengths: readonly number[]): Promise<Record<string, number>> {
    const times: Record<string, number> = {};
    for (const length of lengths) {
      const started = performance.now();
      const ids = new Int32Array(length).fill(this.#spec.padId);
      await this.encode({ rows: 1, ids, offsets: Int32Array.of(0, length), texts: null });
      times[String(length)] = performance.now() - started;
    }
    return times;
  }

  async close(): Promise<void> {
    await this.#session.release();
  }
}
