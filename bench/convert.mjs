// SPDX-License-Identifier: Apache-2.0
// Peak memory of converting a checkpoint of about 1 GB, beside its largest tensor. Each case is a process of
// its own: what Node and libtorch take before the conversion begins, the most while it runs (VmHWM, pages of
// mapped files included), and the difference over the largest tensor.
//
//   npm run bench:convert [-- --folder DIR --gigabytes 1]
import { spawnSync } from "node:child_process";
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { loadAddon } from "../dist/native/loader.js";
import { fixed, machineLine, printTable } from "./lib/table.mjs";

const { values: args } = parseArgs({
  options: {
    folder: { type: "string", default: tmpdir() },
    gigabytes: { type: "string", default: "1" },
    // Of the child process:
    source: { type: "string" },
    output: { type: "string" },
    form: { type: "string", default: "{}" },
  },
});

const status = (key) =>
  Number(new RegExp(`^${key}:\\s+(\\d+) kB`, "m").exec(readFileSync("/proc/self/status", "utf8"))[1]) * 1024;

async function child() {
  const { convert } = await import("../dist/model/convert.js");
  loadAddon();
  const before = status("VmRSS");
  const start = performance.now();
  let calls = 0;
  await convert(args.source, args.output, { ...JSON.parse(args.form), onProgress: () => calls++ });
  console.log(
    JSON.stringify({ before, peak: status("VmHWM"), seconds: (performance.now() - start) / 1000, calls }),
  );
}

const HIDDEN = 1536;
const VOCAB = 32000;
const INNER = 4096;

function llama(layers) {
  const tensors = { "model.embed_tokens.weight": [VOCAB, HIDDEN], "model.norm.weight": [HIDDEN] };
  for (let i = 0; i < layers; i++) {
    const name = (part) => `model.layers.${i}.${part}.weight`;
    for (const norm of ["input_layernorm", "post_attention_layernorm"]) tensors[name(norm)] = [HIDDEN];
    for (const part of ["q", "k", "v", "o"]) tensors[name(`self_attn.${part}_proj`)] = [HIDDEN, HIDDEN];
    for (const part of ["gate", "up"]) tensors[name(`mlp.${part}_proj`)] = [INNER, HIDDEN];
    tensors[name("mlp.down_proj")] = [HIDDEN, INNER];
  }
  const config = {
    model_type: "llama",
    vocab_size: VOCAB,
    hidden_size: HIDDEN,
    intermediate_size: INNER,
    num_hidden_layers: layers,
    num_attention_heads: 12,
    max_position_embeddings: 2048,
    rms_norm_eps: 1e-5,
    tie_word_embeddings: true,
  };
  return { tensors, config };
}

/** GPT-2 stores its matrices turned: each goes through a scratch file. */
function gpt2(layers) {
  const tensors = { "wte.weight": [VOCAB, HIDDEN], "wpe.weight": [1024, HIDDEN] };
  const norm = (name) => {
    tensors[`${name}.weight`] = [HIDDEN];
    tensors[`${name}.bias`] = [HIDDEN];
  };
  const turned = (name, inputs, outputs) => {
    tensors[`${name}.weight`] = [inputs, outputs];
    tensors[`${name}.bias`] = [outputs];
  };
  norm("ln_f");
  for (let i = 0; i < layers; i++) {
    norm(`h.${i}.ln_1`);
    norm(`h.${i}.ln_2`);
    turned(`h.${i}.attn.c_attn`, HIDDEN, 3 * HIDDEN);
    turned(`h.${i}.attn.c_proj`, HIDDEN, HIDDEN);
    turned(`h.${i}.mlp.c_fc`, HIDDEN, 4 * HIDDEN);
    turned(`h.${i}.mlp.c_proj`, 4 * HIDDEN, HIDDEN);
  }
  const config = {
    model_type: "gpt2",
    vocab_size: VOCAB,
    n_embd: HIDDEN,
    n_layer: layers,
    n_head: 12,
    n_positions: 1024,
  };
  return { tensors, config };
}

const elements = (shape) => shape.reduce((a, b) => a * b, 1);

/** A float32 folder in shards of at most half a gigabyte; the values repeat a block of noise. */
function write(folder, { tensors, config }) {
  mkdirSync(folder, { recursive: true });
  const noise = Float32Array.from({ length: 1 << 20 }, () => Math.random() - 0.5);
  const block = Buffer.from(noise.buffer);
  const shards = [[]];
  let room = 2 ** 29;
  for (const [name, shape] of Object.entries(tensors)) {
    const bytes = 4 * elements(shape);
    if (bytes > room && shards.at(-1).length > 0) {
      shards.push([]);
      room = 2 ** 29;
    }
    shards.at(-1).push([name, shape, bytes]);
    room -= bytes;
  }
  const weight_map = {};
  for (const [index, shard] of shards.entries()) {
    const file = `model-${index + 1}-of-${shards.length}.safetensors`;
    const header = {};
    let at = 0;
    for (const [name, shape, bytes] of shard) {
      header[name] = { dtype: "F32", shape, data_offsets: [at, at + bytes] };
      weight_map[name] = file;
      at += bytes;
    }
    const text = Buffer.from(JSON.stringify(header));
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(text.length));
    const fd = openSync(join(folder, file), "w");
    writeSync(fd, length);
    writeSync(fd, text);
    for (let left = at; left > 0; left -= block.length) writeSync(fd, block, 0, Math.min(left, block.length));
    closeSync(fd);
  }
  writeFileSync(join(folder, "model.safetensors.index.json"), JSON.stringify({ weight_map }));
  writeFileSync(join(folder, "config.json"), JSON.stringify(config));
  const sizes = Object.values(tensors).map((shape) => 4 * elements(shape));
  return { bytes: sizes.reduce((a, b) => a + b, 0), largest: Math.max(...sizes) };
}

function parent() {
  const root = mkdtempSync(join(args.folder, "chatspace-bench-convert-"));
  const layers = Math.max(
    1,
    Math.round((Number(args.gigabytes) * 2 ** 30 - 4 * VOCAB * HIDDEN) / (4 * 28.3e6)),
  );
  const rows = [];
  try {
    for (const [family, made, forms] of [
      [
        "llama, float32",
        llama(layers),
        [{}, { dtype: "bfloat16" }, { quantize: "int8" }, { quantize: "int4" }],
      ],
      ["gpt2, every matrix turned", gpt2(layers), [{}, { quantize: "int8" }]],
    ]) {
      const source = join(root, "source");
      const { bytes, largest } = write(source, made);
      for (const form of forms) {
        const output = join(root, "out.pt");
        const flags = ["--source", source, "--output", output, "--form", JSON.stringify(form)];
        const ran = spawnSync(process.execPath, [fileURLToPath(import.meta.url), ...flags], {
          encoding: "utf8",
        });
        if (ran.status !== 0) throw new Error(ran.stderr);
        const { before, peak, seconds } = JSON.parse(ran.stdout);
        const mb = (value) => fixed(value / 1e6, 0);
        rows.push([
          family,
          form.quantize ?? form.dtype ?? "as it is",
          mb(bytes),
          mb(statSync(output).size),
          mb(largest),
          mb(before),
          mb(peak),
          `${fixed((peak - before) / largest, 2)}x`,
          fixed(seconds, 1),
        ]);
        rmSync(output);
      }
      rmSync(source, { recursive: true });
    }
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
  console.log(`${machineLine(loadAddon())}\n`);
  printTable(
    [
      "checkpoint",
      "stored",
      "MB",
      "archive MB",
      "largest tensor MB",
      "RSS before MB",
      "peak MB",
      "taken / largest",
      "s",
    ],
    rows,
  );
}

if (args.source) await child();
else parent();
