// SPDX-License-Identifier: Apache-2.0
// The processes that the tests beside this file start, watch and kill: `node child.mjs SCENARIO`. Plain
// JavaScript over the built package, as a user's process is. The last line a scenario writes is JSON.

import { once } from "node:events";
import { readdirSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parentPort, Worker } from "node:worker_threads";
import { loadAddon } from "../../dist/native/loader.js";

const STORIES = fileURLToPath(new URL("../../models/stories260k.pt", import.meta.url));
const FOREIGN = fileURLToPath(new URL("../golden/foreign/llama-past.pt", import.meta.url));

function open(path = STORIES, options = {}) {
  return loadAddon().load({
    path,
    device: "cpu",
    dtype: "auto",
    quantize: "none",
    threads: 2,
    layersPath: null,
    tokenBudget: 256,
    maxBatch: 16,
    cudaGraphs: "off",
    flashAttention: "off",
    reproducible: false,
    cacheBytes: 1 << 24,
    ...options,
  });
}

function request(changes = {}) {
  return {
    tokens: Int32Array.of(1),
    embeddingRows: null,
    embeddings: null,
    maxTokens: 40,
    minTokens: 0,
    stopIds: new Int32Array(),
    stopBytes: [],
    sampling: {
      temperature: 0,
      topK: 0,
      topP: 1,
      minP: 0,
      repetitionPenalty: 1,
      presencePenalty: 0,
      frequencyPenalty: 0,
      seed: 0,
      biasIds: new Int32Array(),
      biasValues: new Float32Array(),
    },
    logprobs: -1,
    promptLogprobs: false,
    reuse: false,
    logits: "none",
    program: [],
    captures: [],
    ...changes,
  };
}

/** The last event of a request; `first` is called with the first tokens. */
function run(model, changes = {}, first = () => {}) {
  return new Promise((resolve, reject) => {
    let started = false;
    model.submit(request(changes), (event) => {
      if (event.type === "tokens" && !started) {
        started = true;
        first();
      }
      if (event.type === "done") resolve(event);
      if (event.type === "error") reject(Object.assign(new Error(event.message), { code: event.code }));
    });
  });
}

const tell = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
const text = (event) => [...event.tokens].join();
const megabytes = () => Math.round((process.memoryUsage.rss() / 2 ** 20) * 10) / 10;
const nativeThreads = () => readdirSync("/proc/self/task").length;

/** Keeps a model busy for a long while: many long requests, started and never awaited. */
function keepBusy(model, first) {
  for (let i = 0; i < 200; i++) run(model, { maxTokens: 400 }, i === 0 ? first : undefined).catch(() => {});
}

async function collect() {
  for (let i = 0; i < 8; i++) {
    globalThis.gc();
    await sleep(15);
  }
}

const scenarios = {
  async "two-models"() {
    const [a, b] = await Promise.all([open(), open(FOREIGN)]);
    const prompts = Array.from({ length: 12 }, (_, i) => Int32Array.of(1, 3 + i, 20 + 2 * i));
    const alone = { a: [], b: [] };
    for (const tokens of prompts) {
      alone.a.push(text(await run(a, { tokens, maxTokens: 30 })));
      alone.b.push(text(await run(b, { tokens, maxTokens: 30 })));
    }
    const jobs = prompts.flatMap((tokens) => [run(a, { tokens, maxTokens: 30 }), run(b, { tokens, maxTokens: 30 })]);
    const together = (await Promise.all(jobs)).map(text);
    const equal = prompts.every((_, i) => together[2 * i] === alone.a[i] && together[2 * i + 1] === alone.b[i]);
    await a.dispose();
    const after = text(await run(b, { tokens: prompts[0], maxTokens: 30 })) === alone.b[0];
    await b.dispose();
    tell({ equal, after, requests: together.length });
  },

  async workers() {
    const model = await open();
    const expected = text(await run(model));
    const start = (task) => new Worker(new URL(import.meta.url), { argv: [task] });
    const answers = await Promise.all(
      [0, 1, 2].map(async () => {
        const worker = start("worker-generates");
        const [answer] = await once(worker, "message");
        await once(worker, "exit");
        return answer;
      }),
    );
    const exits = [];
    for (const task of ["worker-loads", "worker-busy", "worker-loads", "worker-busy", "worker-idle"]) {
      const worker = start(task);
      await once(worker, "message");
      exits.push(await worker.terminate());
    }
    const main = text(await run(model)) === expected;
    const again = await open();
    const fresh = text(await run(again)) === expected;
    await Promise.all([model.dispose(), again.dispose()]);
    tell({ workers: answers.map((answer) => answer === expected), exits: exits.length, main, fresh });
  },
  async "worker-generates"() {
    const model = await open();
    parentPort.postMessage(text(await run(model)));
    await model.dispose();
  },
  async "worker-loads"() {
    const loading = open();
    parentPort.postMessage("loading");
    await loading;
    await sleep(60_000);
  },
  async "worker-busy"() {
    const model = await open();
    keepBusy(model, () => parentPort.postMessage("generating"));
    await sleep(60_000);
  },
  async "worker-idle"() {
    globalThis.kept = await open();
    await run(globalThis.kept);
    parentPort.postMessage("idle");
    await sleep(60_000);
  },

  async "exit-generating"() {
    const model = await open();
    keepBusy(model, () => {
      tell({ generating: true });
      process.exit(7);
    });
  },
  async "exit-loading"() {
    open();
    await sleep(3);
    process.exit(5);
  },
  async "exit-with-workers"() {
    const worker = new Worker(new URL(import.meta.url), { argv: ["worker-busy"] });
    await once(worker, "message");
    process.exit(6);
  },
  async "exit-code-only"() {
    const model = await open();
    process.exitCode = 9;
    run(model, { maxTokens: 200 }).then((event) => tell({ finish: event.finish, tokens: event.tokens.length }));
  },
  async "end-idle"() {
    // Never disposed, never collected: nothing may keep the process or fall over at its end.
    globalThis.kept = [await open(), await open(FOREIGN)];
    await run(globalThis.kept[0]);
    tell({ ended: true });
  },
  async "throw-generating"() {
    const model = await open();
    keepBusy(model, () => {
      throw new Error("thrown by the test");
    });
  },
  async sigint() {
    const model = await open();
    keepBusy(model, () => tell({ generating: true }));
  },
  async "sigint-handled"() {
    process.on("SIGINT", () => process.exit(130));
    const model = await open();
    keepBusy(model, () => tell({ generating: true }));
  },

  async cycles() {
    const cycle = async () => {
      const model = await open();
      await run(model, { maxTokens: 4 });
      await model.dispose();
    };
    for (let i = 0; i < 20; i++) await cycle();
    await collect();
    const [before, threadsBefore] = [megabytes(), nativeThreads()];
    for (let i = 0; i < 200; i++) await cycle();
    await collect();
    tell({ before, after: megabytes(), threadsBefore, threadsAfter: nativeThreads() });
  },
  async collected() {
    const round = async () => {
      const model = await open();
      await run(model, { maxTokens: 4 });
    };
    // As many at once in the warm-up as later: the allocator keeps what the most of them took.
    const rounds = async (count) => {
      for (let i = 0; i < count; i++) {
        await round();
        if (i % 10 === 9) await collect();
      }
      await collect();
    };
    await rounds(20);
    const [before, threadsBefore] = [megabytes(), nativeThreads()];
    await rounds(60);
    tell({ before, after: megabytes(), threadsBefore, threadsAfter: nativeThreads() });
  },

  async dispose() {
    const model = await open();
    const events = [];
    const running = Array.from({ length: 30 }, () => run(model, { maxTokens: 500 }, () => events.push("tokens")));
    await sleep(30);
    const [first, second] = [model.dispose(), model.dispose()];
    const finishes = (await Promise.all(running)).map((event) => event.finish);
    await first;
    await second;
    await model.dispose();
    let code = null;
    try {
      model.submit(request(), () => {});
    } catch (error) {
      code = error.code;
    }
    model.abort(3);
    tell({ aborted: finishes.filter((finish) => finish === "aborted").length, all: finishes.length, code, layers: model.info.layers });
  },
  async aborts() {
    const model = await open();
    const expected = text(await run(model));
    const finishes = {};
    const jobs = [];
    for (let i = 0; i < 1000; i++) {
      jobs.push(
        new Promise((resolve) => {
          const id = model.submit(request({ maxTokens: 400 }), (event) => event.type !== "tokens" && resolve(event));
          if (i % 3 === 0) model.abort(id);
          else if (i % 3 === 1) setImmediate(() => model.abort(id));
          else setTimeout(() => model.abort(id), i % 7);
          model.abort(id + 100_000);
        }),
      );
      if (i % 50 === 49) await sleep(1);
    }
    for (const event of await Promise.all(jobs)) {
      const key = event.finish ?? event.code;
      finishes[key] = (finishes[key] ?? 0) + 1;
    }
    const after = text(await run(model)) === expected;
    await sleep(50);
    const stats = model.stats();
    await model.dispose();
    tell({ finishes, after, running: stats.running, waiting: stats.waiting });
  },
  async throws() {
    const caught = [];
    process.on("uncaughtException", (error) => caught.push(error.message));
    const model = await open();
    const expected = text(await run(model));
    model.submit(request(), () => {
      throw new Error("from onEvent");
    });
    const others = await Promise.all(Array.from({ length: 8 }, () => run(model)));
    const equal = others.every((event) => text(event) === expected);
    await sleep(50);
    await model.dispose();
    tell({ caught: caught.length, message: caught[0], equal });
  },
  async mutations() {
    const { mutate } = await import("./mutations.mjs");
    tell(await mutate(open, run, process.argv[3], Number(process.argv[4]), process.argv[5]));
  },
};

const name = process.argv[2];
process.on("warning", (warning) => process.stderr.write(`${warning.name}: ${warning.message}\n`));
await scenarios[name]();
