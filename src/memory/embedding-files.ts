// SPDX-License-Identifier: Apache-2.0
// Prompt embeddings as files and as bytes on a wire: .npy, .safetensors with what made them, and tensors
// of torch.save. What comes from outside is read by strict readers; no pickle is ever executed.

import { readFileSync } from "node:fs";
import { extname } from "node:path";
import { DataError } from "../errors.ts";
import { readNpy, writeNpy } from "../formats/npy.ts";
import { readSafetensors, writeSafetensors } from "../formats/safetensors.ts";
import {
  asBytes,
  type FormatTensor,
  float32Tensor,
  fromFloat32,
  makeTensor,
  type TensorDtype,
  toFloat32,
} from "../formats/tensor.ts";
import { readTorchSave } from "../formats/torch-save.ts";
import { writeTorchSave } from "../formats/torch-save-writer.ts";
import { writeWhole } from "../formats/write-whole.ts";
import { readZipDirectory } from "../formats/zip.ts";
import type { PromptEmbeddings } from "../model/prompt.ts";
import type { CompressedPrompt } from "./compressor.ts";

/** Name of the embeddings in a safetensors file. */
export const EMBEDDINGS_TENSOR = "prompt_embeds";
/** Endings that are read and written. */
export const EMBEDDING_ENDINGS: readonly string[] = [".npy", ".safetensors", ".pt"];

/** Dtype of a tensor on the wire. */
export type WireDtype = "float32" | "float16" | "bfloat16";
const WIRE: Readonly<Record<WireDtype, "F32" | "F16" | "BF16">> = {
  float32: "F32",
  float16: "F16",
  bfloat16: "BF16",
};
const FLOATS: readonly TensorDtype[] = ["F32", "F16", "BF16"];

/** Embeddings of a file with its metadata (safetensors alone has any). */
export interface StoredEmbeddings {
  readonly prompt: PromptEmbeddings;
  readonly provenance: Readonly<Record<string, string>>;
}

/**
 * Writes by the ending: .npy (float32, C order, [tokens, hidden]), .safetensors (prompt_embeds, input_ids
 * and metadata) or .pt (the tensor as torch.save writes it). Whole or not at all.
 * @throws DataError ERR_PROMPT_EMBEDS_FILE for another ending, ERR_FILE_WRITE
 */
export async function writePromptEmbeddings(path: string, compressed: CompressedPrompt): Promise<void> {
  await writeWhole(path, fileBytes(path, compressed));
}

function fileBytes(path: string, { prompt, tokens, provenance }: CompressedPrompt): Uint8Array {
  const tensor = float32Tensor(prompt.promptEmbeddings, prompt.shape);
  switch (extname(path)) {
    case ".npy":
      return writeNpy(tensor);
    case ".safetensors": {
      const ids = makeTensor("I32", [tokens.length], asBytes(tokens));
      return writeSafetensors({ [EMBEDDINGS_TENSOR]: tensor, input_ids: ids }, provenance);
    }
    case ".pt":
      return writeTorchSave(tensor);
    default:
      throw ending(path);
  }
}

/** @throws DataError ERR_PROMPT_EMBEDS_FILE for an ending that is neither read nor written */
export function checkEmbeddingsPath(path: string): void {
  if (!EMBEDDING_ENDINGS.includes(extname(path))) throw ending(path);
}

/**
 * Reads a file by its ending. A leading dimension of 1 is dropped.
 * @throws DataError ERR_PROMPT_EMBEDS_FILE (no [tokens, hidden] of finite floats), ERR_NPY,
 *   ERR_SAFETENSORS, ERR_TORCH_SAVE, ERR_ZIP, ERR_FILE_UNREADABLE
 */
export function readPromptEmbeddings(path: string): StoredEmbeddings {
  switch (extname(path)) {
    case ".npy":
      return { prompt: promptOf(readNpy(path), path), provenance: {} };
    case ".safetensors": {
      const { tensors, metadata } = readSafetensors(path);
      const named =
        tensors.get(EMBEDDINGS_TENSOR) ?? (tensors.size === 1 ? [...tensors.values()][0] : undefined);
      if (!named)
        throw bad(path, `a tensor ${EMBEDDINGS_TENSOR}`, `tensors ${[...tensors.keys()].join(", ")}`);
      return { prompt: promptOf(named, path), provenance: metadata };
    }
    case ".pt":
      return { prompt: parseTorchEmbeddings(readBytes(path), path), provenance: {} };
    default:
      throw ending(path);
  }
}

/**
 * The one tensor of a torch.save file: float32, float16 or bfloat16, [tokens, hidden].
 * @throws DataError ERR_TORCH_SAVE, ERR_ZIP, ERR_PROMPT_EMBEDS_FILE
 */
export function parseTorchEmbeddings(bytes: Uint8Array, name = "torch.save bytes"): PromptEmbeddings {
  // torch.save stores its records; ones that inflate could take a thousand times what was sent.
  let inflated = 0;
  if (bytes[0] === 0x50) for (const { size } of readZipDirectory(bytes).values()) inflated += size;
  if (inflated > bytes.length)
    throw bad(name, `records of at most ${bytes.length} bytes, as stored`, `${inflated}`);
  const value = readTorchSave(bytes);
  const tensor = typeof value === "object" && value !== null && "dtype" in value && "shape" in value;
  if (!tensor) throw bad(name, "a tensor alone", Array.isArray(value) ? "a list" : typeof value);
  return promptOf(value as FormatTensor, name);
}

/**
 * The `prompt_embeds` of a request: strict base64 of torch.save bytes.
 * @param limits most bytes of the decoded file, hidden size of the model
 * @throws DataError as parseTorchEmbeddings; the size is looked at before anything is decoded
 */
export function decodePromptEmbeds(
  base64: string,
  limits: { maxBytes: number; hiddenSize: number },
  name = "prompt_embeds",
): PromptEmbeddings {
  const bytes = Math.floor(base64.length / 4) * 3;
  if (bytes > limits.maxBytes + 2) throw bad(name, `at most ${limits.maxBytes} bytes`, `${bytes}`);
  if (base64.length % 4 !== 0 || !/^[A-Za-z0-9+/]+={0,2}$/.test(base64))
    throw bad(name, "base64 of a torch.save file", "something else");
  const prompt = parseTorchEmbeddings(Buffer.from(base64, "base64"), name);
  if (prompt.shape[1] !== limits.hiddenSize)
    throw bad(name, `rows of ${limits.hiddenSize}, the model's hidden size`, `rows of ${prompt.shape[1]}`);
  return prompt;
}

/** A tensor as Python's torch.load(weights_only=True) reads it, in base64. */
export function encodePromptEmbeds(prompt: PromptEmbeddings, dtype: WireDtype = "float32"): string {
  const tensor = fromFloat32(prompt.promptEmbeddings, WIRE[dtype], prompt.shape);
  return Buffer.from(writeTorchSave(tensor)).toString("base64");
}

function promptOf(tensor: FormatTensor, name: string): PromptEmbeddings {
  const { dtype, shape } = tensor;
  const rows = shape.length === 3 && shape[0] === 1 ? shape.slice(1) : shape;
  const allowed = FLOATS.includes(dtype) || (dtype === "F64" && name.endsWith(".npy"));
  if (!allowed || rows.length !== 2 || rows.includes(0))
    throw bad(name, "float32, float16 or bfloat16 [tokens, hidden]", `${dtype} [${shape.join(", ")}]`);
  const promptEmbeddings = toFloat32(tensor);
  const wrong = promptEmbeddings.findIndex((x) => !Number.isFinite(x));
  if (wrong >= 0)
    throw bad(name, "finite numbers", `${promptEmbeddings[wrong]} in row ${Math.floor(wrong / rows[1]!)}`);
  return { promptEmbeddings, shape: [rows[0]!, rows[1]!] };
}

function readBytes(path: string): Uint8Array {
  try {
    return readFileSync(path);
  } catch (cause) {
    throw new DataError("ERR_FILE_UNREADABLE", `cannot read ${path}: ${(cause as Error).message}`, {
      cause,
      details: { file: path },
      remedies: ["Check the path and its permissions."],
    });
  }
}

function ending(path: string): DataError {
  return bad(path, `a name that ends in ${EMBEDDING_ENDINGS.join(", ")}`, extname(path) || "no ending");
}

function bad(file: string, expected: string, got: string): DataError {
  return new DataError("ERR_PROMPT_EMBEDS_FILE", `${file}: expected ${expected}, got ${got}`, {
    details: { file, expected, got },
    remedies: ["`chatspace-steer prompt-embeds build` writes such files."],
  });
}
