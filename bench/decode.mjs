// SPDX-License-Identifier: Apache-2.0
// Decode and prefill of SteerModel beside Hugging Face Transformers with forward hooks, on the same
// weights, in turns in one run, with the read loop that bounds batch-1 decode.
//
//   npm run bench:decode [-- --model FILE.gguf|DIR --dtypes float32,bfloat16 --batches 1,16
//                            --steps 48 --prompt 64 --threads 2 --rounds 3 --no-peer]
// The peer needs CHATSPACE_BENCH_PYTHON (or python3) with torch and transformers.
import { parseArgs } from "node:util";
import { SteerModel } from "../dist/index.js";
import { resolveModel } from "../dist/model/store.js";
import { loadAddon } from "../dist/native/loader.js";
import { benchPython, Peer } from "./lib/peer.mjs";
import { peerWeights } from "./lib/peer-weights.mjs";
import { fixed, machineLine, median, printTable } from "./lib/table.mjs";
import { prompts, rates, runOurs } from "./lib/workload.mjs";

const { values: args } = parseArgs({
  options: {
    model: { type: "string", default: "smollm2-135m-instruct" },
    dtypes: { type: "string", default: "float32,bfloat16" },
    batches: { type: "string", default: "1,16" },
    steps: { type: "string", default: "48" },
    prompt: { type: "string", default: "64" },
    threads: { type: "string" },
    rounds: { type: "string", default: "3" },
    "no-peer": { type: "boolean", default: false },
  },
});

const addon = loadAddon();
const threads = Number(args.threads ?? addon.machine().cores);
const steps = Number(args.steps);
const rounds = Number(args.rounds);
const python = args["no-peer"] ? null : benchPython();
const path = await resolveModel(args.model, {});
const weights = python === null ? null : peerWeights(args.model);

console.log(machineLine(addon));
console.log(
  `${args.model}, ${threads} threads, prompt ${args.prompt}, ${steps} greedy tokens, median of ${rounds} rounds in turns; ` +
    (python === null ? "no peer (no Python with transformers)" : `peer: transformers ${python.version}`),
);

const rows = [];
for (const dtype of args.dtypes.split(",")) {
  const model = await SteerModel.load(path, { dtype, threads });
  const layers = model.info.layers;
  const steered = { none: [], one: [layers >> 1], all: Array.from({ length: layers }, (_, i) => i) };
  const peer =
    weights === null
      ? null
      : new Peer(python.python, "transformers_peer.py", { OMP_NUM_THREADS: `${threads}` });
  if (peer !== null) await peer.ask({ do: "load", model: weights, dtype, threads });
  for (const batch of args.batches.split(",").map(Number)) {
    const tokens = prompts(batch, Number(args.prompt), model.info.vocabSize);
    await runOurs(model, { tokens, steps: 8, layers: [] });
    for (const [name, at] of Object.entries(steered)) {
      const ours = [];
      const theirs = [];
      const reads = [];
      for (let round = 0; round < rounds; round++) {
        ours.push(await runOurs(model, { tokens, steps, layers: at }));
        reads.push(addon.readBandwidth(model.info.weightBytes, threads, 2));
        if (peer === null) continue;
        const answer = await peer.ask({ do: "run", tokens, steps, layers: at });
        theirs.push(rates(tokens, steps, answer.promptMs, answer.generateMs));
      }
      const decode = median(ours.map((r) => r.decode));
      const limit = batch === 1 ? (median(reads) * 1e9) / model.info.weightBytes : null;
      const peerDecode = theirs.length > 0 ? median(theirs.map((r) => r.decode)) : null;
      const prefill = median(ours.map((r) => r.prefill));
      const peerPrefill = theirs.length > 0 ? median(theirs.map((r) => r.prefill)) : null;
      rows.push([
        `${dtype}, batch ${batch}, steered at ${name}`,
        fixed(decode),
        fixed(peerDecode),
        peerDecode === null ? "-" : `${fixed(decode / peerDecode, 2)}x`,
        fixed(limit),
        limit === null ? "-" : `${fixed((100 * decode) / limit, 0)} %`,
        fixed(prefill, 0),
        fixed(peerPrefill, 0),
        peerPrefill === null ? "-" : `${fixed(prefill / peerPrefill, 2)}x`,
      ]);
    }
  }
  peer?.close();
  await model.dispose();
}
printTable(
  ["case", "decode tok/s", "peer", "ratio", "read loop allows", "of it", "prefill tok/s", "peer", "ratio"],
  rows,
);
