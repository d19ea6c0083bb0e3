// SPDX-License-Identifier: Apache-2.0
// The sides of bench/throughput.mjs behind one face: load weights, then decode N sequences greedily with a
// steering case, and say how long a step took and which tokens came out.
//
//   side.load({ dtype, batches, prompt, length })   once for each dtype
//   side.open({ batch })                            once for each batch size
//   side.firstLayer                                 the first layer it can steer, 0 if not given
//   side.run({ tokens, steps, layers, vectors })    -> { stepMs, made } or null: cannot do this case
//
// vectors: [] unsteered, one for all requests, or one for each. steps: decode steps after the first token.
import { SteerModel } from "../../dist/index.js";
import { BatchRunner } from "./batch-run.mjs";
import { Peer } from "./peer.mjs";

export class Ours {
  name = "ours";
  #model;
  #runner;

  constructor(archive, threads) {
    this.archive = archive;
    this.threads = threads;
  }

  get info() {
    return this.#model.info;
  }

  async load({ dtype, batches, prompt }) {
    await this.#model?.dispose();
    const most = Math.max(...batches);
    const tokenBudget = Math.max(512, most * prompt);
    this.#model = await SteerModel.load(this.archive, {
      ...{ dtype, quantize: "none", threads: this.threads, device: "cpu" },
      ...{ maxBatch: most + 1, tokenBudget, cacheBytes: 2 ** 30 },
    });
    this.#runner = new BatchRunner(this.#model, tokenBudget);
  }

  async open() {}

  async run({ tokens, steps, layers, vectors }) {
    const programs = tokens.map((_, i) =>
      layers.map((layer) => ({ layer, op: "add", vector: vectors[i % vectors.length] })),
    );
    const answer = await this.#runner.run({ tokens, steps, programs });
    const expected = tokens.length * (tokens[0].length + steps) * layers.length;
    if (answer.touched !== expected)
      throw new Error(`${answer.touched} rows x operations were touched, expected ${expected}`);
    return { stepMs: answer.stepMs, made: answer.tokens.map((ids) => [...ids]) };
  }

  async close() {
    await this.#model?.dispose();
  }
}

/** Hugging Face Transformers with forward hooks; a [batch, 1, hidden] tensor is added. */
export class Transformers {
  name = "Transformers + hooks";
  #peer;

  constructor(python, weights, threads) {
    this.weights = weights;
    this.threads = threads;
    this.#peer = new Peer(python, "transformers_peer.py", { OMP_NUM_THREADS: `${threads}` });
  }

  async load({ dtype }) {
    await this.#peer.ask({ do: "load", model: this.weights, dtype, threads: this.threads });
  }

  async open() {}

  async run({ tokens, steps, layers, vectors }) {
    const answer = await this.#peer.ask({
      ...{ do: "run", tokens, layers, vectors: vectors.map((vector) => [...vector]) },
      steps: steps + 1, // it counts the prompt's token
    });
    return { stepMs: answer.generateMs / steps, made: answer.made };
  }

  async close() {
    this.#peer.close();
  }
}

/** llama.cpp's library with its control vector, which belongs to the context: one for all requests. */
export class LlamaControlVector {
  name = "llama.cpp + control vector";
  firstLayer = 1;
  #peer;
  #file;
  #length;
  #prompt;

  /** file(dtype) -> a GGUF file of the same weights at the same bits. */
  constructor(python, file, threads) {
    this.#file = file;
    this.threads = threads;
    this.#peer = new Peer(python, "llama_cpp_peer.py");
  }

  async load({ dtype, prompt, length }) {
    [this.#prompt, this.#length] = [prompt, length];
    this.build = await this.#peer.ask({ do: "load", model: this.#file(dtype), threads: this.threads });
  }

  async open({ batch }) {
    await this.#peer.ask({ do: "open", sequences: batch, length: this.#length, prompt: this.#prompt });
  }

  async run({ tokens, steps, layers, vectors }) {
    if (vectors.length > 1) return null;
    const vector = vectors.length === 0 ? [] : [...vectors[0]];
    const answer = await this.#peer.ask({ do: "run", tokens, steps, layers, vector });
    return { stepMs: answer.generateMs / steps, made: answer.made };
  }

  async close() {
    this.#peer.close();
  }
}

/** node-llama-cpp's prebuilt binary: no control vectors, so unsteered alone. */
export class LlamaPrebuilt {
  name = "node-llama-cpp";
  #peer;
  #file;
  #load;

  constructor(folder, file, threads) {
    this.#file = file;
    this.threads = threads;
    this.#peer = new Peer(process.execPath, "llama_peer.mjs", { CHATSPACE_BENCH_LLAMA: folder });
  }

  async load({ dtype, length }) {
    this.#load = { model: this.#file(dtype), threads: this.threads, contextSize: length };
  }

  async open({ batch }) {
    this.build = await this.#peer.ask({ do: "load", ...this.#load, sequences: batch });
  }

  async run({ tokens, steps, vectors }) {
    if (vectors.length > 0) return null;
    const answer = await this.#peer.ask({ do: "batch", tokens, steps });
    return { stepMs: answer.generateMs / steps, made: answer.made };
  }

  async close() {
    this.#peer.close();
  }
}
