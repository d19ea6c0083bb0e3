// SPDX-License-Identifier: Apache-2.0
// Decode speed by precision beside llama.cpp, on the same weights at the same bits, in turns in one run,
// with the read loop that bounds batch-1 decode.
//
//   npm run bench:quant [-- --model smollm2-135m-instruct|FILE.gguf --formats float32,bfloat16,int8,int8-exact,int4,int4-exact
//                           --prompt 64 --steps 48 --rounds 5 --threads 2 --no-peer]
//
// The peer is npm's node-llama-cpp with its prebuilt CPU binary, taken from CHATSPACE_BENCH_LLAMA (a folder
// with node_modules) or installed into the temporary folder; it is no dependency of this package.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { SteerModel } from "../dist/index.js";
import { cacheFolder } from "../dist/model/cache-folder.js";
import { MODEL_CATALOG, resolveModel } from "../dist/model/store.js";
import { loadAddon } from "../dist/native/loader.js";
import { writeVariant } from "../scripts/lib/gguf-variant.mjs";
import { Peer } from "./lib/peer.mjs";
import { fixed, machineLine, median, printTable } from "./lib/table.mjs";
import { prompts } from "./lib/workload.mjs";

const PEER = "3.22.1";
const { values: args } = parseArgs({
  options: {
    model: { type: "string", default: "smollm2-135m-instruct" },
    formats: { type: "string", default: "float32,bfloat16,int8,int8-exact,int4,int4-exact" },
    prompt: { type: "string", default: "64" },
    steps: { type: "string", default: "48" },
    rounds: { type: "string", default: "5" },
    threads: { type: "string" },
    "no-peer": { type: "boolean", default: false },
  },
});
// The same weights for both sides: ours are loaded so, the peer reads a GGUF file of the same bits. The
// default model's own file is Q4_1 with 8-bit embedding and head. int8 and int4 multiply int16 activations
// (the peer: int8 ones); "exact" are the products that equal those of the float32 copy bit for bit.
const FORMATS = {
  float32: { load: { dtype: "float32", quantize: "none" }, type: "F32" },
  bfloat16: { load: { dtype: "bfloat16", quantize: "none" }, type: "BF16" },
  float16: { load: { dtype: "float16", quantize: "none" }, type: "F16" },
  int8: { load: { dtype: "float32", quantize: "int8", activations: "int16" }, type: "Q8_0" },
  "int8-exact": { load: { dtype: "float32", quantize: "int8", activations: "float32" }, type: "Q8_0" },
  int4: { load: { dtype: "float32", quantize: "stored", activations: "int16" }, type: null },
  "int4-exact": { load: { dtype: "float32", quantize: "stored", activations: "float32" }, type: null },
};

const addon = loadAddon();
const threads = Number(args.threads ?? addon.machine().cores);
const [steps, rounds] = [Number(args.steps), Number(args.rounds)];
const archive = await resolveModel(args.model);
const origin = MODEL_CATALOG.find(({ name }) => name === args.model)?.origin;
const source = origin === undefined ? args.model : join(cacheFolder(), "sources", origin.file);
const folder = mkdtempSync(join(tmpdir(), "chatspace-quant-"));
const place = args["no-peer"] ? null : llamaFolder();
const peer =
  place === null ? null : new Peer(process.execPath, "llama_peer.mjs", { CHATSPACE_BENCH_LLAMA: place });

try {
  await main();
} finally {
  peer?.close();
  rmSync(folder, { recursive: true, force: true });
}

async function main() {
  const rows = [];
  let release = "";
  for (const name of args.formats.split(",")) {
    const { load, type } = FORMATS[name];
    const model = await SteerModel.load(archive, { ...load, threads, device: "cpu", cacheBytes: 1 << 28 });
    const [tokens] = prompts(1, Number(args.prompt), Math.min(model.info.vocabSize, 20_000));
    if (peer) {
      const file = type === null ? source : join(folder, `${type}.gguf`);
      if (type !== null && !existsSync(file)) writeVariant(source, file, { type });
      ({ release } = await peer.ask({ do: "load", model: file, threads, contextSize: 1024 }));
    }
    const ours = [];
    const theirs = [];
    const reads = [];
    const prefix = [];
    // The first round warms both sides up and is not counted.
    for (let round = 0; round <= rounds; round++) {
      const mine = await measureOurs(model, tokens.with(0, 3 + round));
      const read = addon.readBandwidth(model.info.weightBytes, threads, 2);
      const other = peer ? await peer.ask({ do: "run", tokens: tokens.with(0, 3 + round), steps }) : null;
      if (round === 0) continue;
      ours.push(mine.decode);
      prefix.push(mine.prefill);
      reads.push(read);
      if (other) theirs.push(((steps - 1) * 1000) / other.generateMs);
    }
    const limit = (median(reads) * 1e9) / model.info.weightBytes;
    const [decode, other] = [median(ours), theirs.length > 0 ? median(theirs) : null];
    rows.push([
      name,
      fixed(model.info.weightBytes / 1e6),
      fixed(decode),
      other === null ? "-" : fixed(other),
      other === null ? "-" : `${fixed(median(ours.map((value, i) => value / theirs[i])), 2)}x`,
      fixed(median(reads)),
      fixed(limit),
      `${fixed((100 * decode) / limit, 0)} %`,
      fixed(median(prefix), 0),
    ]);
    await model.dispose();
  }
  console.log(machineLine(addon));
  console.log(
    `${args.model}, ${threads} threads, batch 1, prompt ${args.prompt}, ${steps} greedy tokens, median of ${rounds} rounds in turns; ` +
      (peer ? `peer: node-llama-cpp ${PEER} (llama.cpp ${release}), CPU` : "no peer"),
  );
  printTable(
    [
      "weights",
      "MB",
      "decode tok/s",
      "llama.cpp",
      "ratio",
      "read loop GB/s",
      "it allows tok/s",
      "of it",
      "prefill tok/s",
    ],
    rows,
  );
}

async function measureOurs(model, tokens) {
  const options = { maxTokens: steps, temperature: 0, ignoreEos: true };
  const { timing } = await model.generate(Int32Array.from(tokens), options);
  return {
    prefill: (tokens.length * 1000) / timing.promptMs,
    decode: ((steps - 1) * 1000) / timing.generateMs,
  };
}

/** A folder that has node-llama-cpp, installed if need be: the package and this platform's binary alone. */
function llamaFolder() {
  if (process.env.CHATSPACE_BENCH_LLAMA) return process.env.CHATSPACE_BENCH_LLAMA;
  const target = join(tmpdir(), `chatspace-bench-llama-${PEER}`);
  if (existsSync(join(target, "node_modules/node-llama-cpp/package.json"))) return target;
  mkdirSync(target, { recursive: true });
  writeFileSync(join(target, "package.json"), "{}\n");
  const wanted = [`node-llama-cpp@${PEER}`, `@node-llama-cpp/${process.platform}-${process.arch}@${PEER}`];
  const manners = ["--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund"];
  const { status } = spawnSync("npm", ["install", ...manners, ...wanted], { cwd: target, stdio: "inherit" });
  if (status === 0) return target;
  console.error("node-llama-cpp could not be installed: no peer");
  return null;
}
