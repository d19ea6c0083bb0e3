// SPDX-License-Identifier: Apache-2.0
// Another GGUF file of the same model: its matrices in another type, and, if asked for, moved off the grid
// that the source was quantised on. For measurements only. Metadata is copied byte for byte.
import fs from "node:fs";
import { readGgufHeader } from "../../dist/formats/gguf.js";
import { float32ToBfloat16, float32ToFloat16 } from "../../dist/formats/half.js";
import { loadAddon } from "../../dist/native/loader.js";

const TYPE_NUMBERS = { F32: 0, F16: 1, Q8_0: 8, BF16: 30 };
const ALIGNMENT = 32;

/** Writes `target`: matrices as `type` ("F32", "F16", "BF16", "Q8_0"), vectors as F32. */
export function writeVariant(source, target, { type, offGrid = false }) {
  const addon = loadAddon();
  const file = fs.openSync(source, "r");
  const header = readGgufHeader(source);
  const values = new Map();
  for (const { name, type: stored, shape, offset, bytes } of header.tensors.values()) {
    const raw = new Uint8Array(bytes);
    fs.readSync(file, raw, 0, bytes, offset);
    const count = shape.reduce((a, b) => a * b, 1);
    values.set(name, { shape, data: addon.dequantize(stored, raw, count) });
  }
  if (offGrid) moveOffGrid(values, header.metadata);

  const tensors = [...values].map(([name, { shape, data }]) => {
    const as = shape.length > 1 ? type : "F32";
    return { name, shape, as, bytes: encode(as, data) };
  });
  const first = header.tensors.keys().next().value;
  const head = Buffer.alloc(Math.min(fs.fstatSync(file).size, 32 << 20));
  fs.readSync(file, head, 0, head.length, 0);
  const metadataEnd = head.indexOf(Buffer.concat([u64(first.length), Buffer.from(first)]));
  fs.closeSync(file);
  if (metadataEnd < 0) throw new Error(`${source}: no tensor table in the first ${head.length} bytes`);

  const parts = [head.subarray(0, metadataEnd)];
  let offset = 0;
  for (const { name, shape, as, bytes } of tensors) {
    parts.push(u64(name.length), Buffer.from(name), u32(shape.length));
    for (const size of [...shape].reverse()) parts.push(u64(size));
    parts.push(u32(TYPE_NUMBERS[as]), u64(offset));
    offset += Math.ceil(bytes.byteLength / ALIGNMENT) * ALIGNMENT;
  }
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  parts.push(Buffer.alloc((ALIGNMENT - (length % ALIGNMENT)) % ALIGNMENT));
  const out = fs.openSync(target, "w");
  fs.writeSync(out, Buffer.concat(parts));
  for (const { bytes } of tensors) {
    writeAll(out, bytes);
    writeAll(out, new Uint8Array((ALIGNMENT - (bytes.byteLength % ALIGNMENT)) % ALIGNMENT));
  }
  fs.closeSync(out);
}

/**
 * The same function by other weights: each input channel of a matrix times exp(n/8), n normal, and what
 * produces the channel (a norm's gain, rows of the value or up matrix) divided by it. A matrix that was
 * dequantised from blocks no longer lies on their grid, so that quantising it again costs what it costs.
 */
function moveOffGrid(values, metadata) {
  const architecture = metadata.get("general.architecture");
  if (architecture !== "llama") throw new Error(`expected a llama GGUF, got ${architecture}`);
  const number = (key) => Number(metadata.get(`llama.${key}`));
  const group = number("attention.head_count") / number("attention.head_count_kv");
  const normal = normals(7);
  const factors = (count) => Float32Array.from({ length: count }, () => Math.exp(normal() / 8));
  const at = (layer, name) => values.get(`blk.${layer}.${name}.weight`);
  for (let layer = 0; layer < number("block_count"); layer++) {
    for (const [norm, users] of [
      ["attn_norm", ["attn_q", "attn_k", "attn_v"]],
      ["ffn_norm", ["ffn_gate", "ffn_up"]],
    ]) {
      const gains = at(layer, norm).data;
      const scale = factors(gains.length);
      gains.forEach((gain, i) => {
        gains[i] = gain / scale[i];
      });
      for (const user of users) scaleColumns(at(layer, user), (column) => scale[column]);
    }
    const value = at(layer, "attn_v");
    const headDim = value.shape[0] / number("attention.head_count_kv");
    const perValue = factors(value.shape[0]);
    scaleRows(value, (row) => perValue[row]);
    scaleColumns(at(layer, "attn_output"), (column) => {
      const head = Math.floor(column / headDim);
      return 1 / perValue[Math.floor(head / group) * headDim + (column % headDim)];
    });
    const up = at(layer, "ffn_up");
    const perUp = factors(up.shape[0]);
    scaleRows(up, (row) => perUp[row]);
    scaleColumns(at(layer, "ffn_down"), (column) => 1 / perUp[column]);
  }
}

function scaleColumns({ shape: [rows, columns], data }, factor) {
  const factors = Float32Array.from({ length: columns }, (_, column) => factor(column));
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++) data[row * columns + column] *= factors[column];
}

function scaleRows({ shape: [rows, columns], data }, factor) {
  for (let row = 0; row < rows; row++) {
    const scale = factor(row);
    for (let column = 0; column < columns; column++) data[row * columns + column] *= scale;
  }
}

function encode(type, data) {
  if (type === "F32") return bytesOf(data);
  if (type === "F16") return bytesOf(float32ToFloat16(data));
  if (type === "BF16") return bytesOf(float32ToBfloat16(data));
  return blocksOf8(data);
}

/** Q8_0: 32 values a block, one half-precision scale, the largest value at 127. */
function blocksOf8(data) {
  const blocks = data.length / 32;
  const out = new Uint8Array(blocks * 34);
  const view = new DataView(out.buffer);
  const scales = new Float32Array(blocks);
  for (let block = 0; block < blocks; block++)
    for (let i = 0; i < 32; i++) scales[block] = Math.max(scales[block], Math.abs(data[block * 32 + i]));
  for (let block = 0; block < blocks; block++) scales[block] /= 127;
  const halves = float32ToFloat16(scales);
  for (let block = 0; block < blocks; block++) {
    view.setUint16(block * 34, halves[block], true);
    const inverse = scales[block] > 0 ? 1 / scales[block] : 0;
    for (let i = 0; i < 32; i++) view.setInt8(block * 34 + 2 + i, Math.round(data[block * 32 + i] * inverse));
  }
  return out;
}

function bytesOf(array) {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}

function writeAll(file, bytes) {
  for (let at = 0; at < bytes.length; ) at += fs.writeSync(file, bytes, at, bytes.length - at);
}

function u32(value) {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

function u64(value) {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}

function normals(seed) {
  let state = seed;
  const uniform = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state + 0.5) / 2 ** 32;
  };
  return () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
}
