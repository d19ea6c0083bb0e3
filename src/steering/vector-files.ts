// SPDX-License-Identifier: Apache-2.0
// Vector files by their ending. The native form is safetensors: one F32 or F16 tensor per site, named by
// the site, and metadata that says what the numbers mean (docs/formats.md). Readers of other people's
// formats are vector-foreign.ts.

import { readFile, stat } from "node:fs/promises";
import { extname, join } from "node:path";
import { DataError } from "../errors.ts";
import { readNpy, writeNpy } from "../formats/npy.ts";
import { readSafetensors, writeSafetensors } from "../formats/safetensors.ts";
import { type FormatTensor, float32Tensor, toFloat32 } from "../formats/tensor.ts";
import { writeWhole } from "../formats/write-whole.ts";
import { layerSite } from "./sites.ts";
import { ANY_SITE, SteeringVector, type SteeringVectorInit } from "./vector.ts";
import {
  readControlVector,
  readTorchVector,
  writeControlVector,
  writeTorchVector,
} from "./vector-foreign.ts";

/** Value of the metadata key "format" in our own files. */
const FORMAT = "chatspace-steering-vector";
const VERSION = "1";
const ENDINGS = [".safetensors", ".npy", ".json", ".gguf", ".pt"];

/** @throws DataError ERR_VECTOR_FILE, ERR_VECTOR_FORMAT, or the reader's own code for a damaged file. */
export async function loadVector(path: string): Promise<SteeringVector> {
  let file = path;
  try {
    if ((await stat(path)).isDirectory()) file = join(path, "steering_vector.pt");
    await stat(file);
  } catch (cause) {
    throw new DataError(
      "ERR_VECTOR_FILE",
      `vector: expected a file at ${file}, got ${(cause as Error).message}`,
      {
        cause,
        details: { path },
        remedies: ["check the path", "names of vectors in the package: `chatspace-steer models list`"],
      },
    );
  }
  switch (extname(file).toLowerCase()) {
    case ".safetensors":
      return readNative(file);
    case ".npy":
      return fromTensors(file, new Map([["", readNpy(file)]]), {});
    case ".json":
      return readJson(file);
    case ".gguf":
      return readControlVector(file);
    case ".pt":
    case ".pth":
      return readTorchVector(file);
    default:
      throw unknownEnding(file);
  }
}

/** @throws DataError ERR_VECTOR_FORMAT when the format cannot hold the vector. */
export async function saveVector(vector: SteeringVector, path: string): Promise<void> {
  switch (extname(path).toLowerCase()) {
    case ".safetensors":
      return writeWhole(path, nativeBytes(vector));
    case ".npy":
      return writeWhole(path, writeNpy(asOneTensor(vector, path)));
    case ".json":
      return writeWhole(path, new TextEncoder().encode(`${JSON.stringify(asJson(vector))}\n`));
    case ".gguf":
      return writeWhole(path, writeControlVector(vector));
    case ".pt":
      return writeWhole(path, writeTorchVector(vector));
    default:
      throw unknownEnding(path);
  }
}

/** Bytes of the native form. */
export function nativeBytes(vector: SteeringVector): Uint8Array {
  const tensors = new Map<string, FormatTensor>();
  const norms: Record<string, number> = {};
  for (const site of vector.sites) {
    const direction = vector.at(site);
    tensors.set(site, float32Tensor(direction));
    norms[site] = Math.hypot(...direction);
  }
  return writeSafetensors(tensors, {
    format: FORMAT,
    version: VERSION,
    name: vector.name,
    op: "add",
    sites: JSON.stringify(vector.sites),
    scale_convention: "absolute: h + scale * v, v as stored",
    norms: JSON.stringify(norms),
    base_model: vector.model.name,
    width: String(vector.width),
    weight_hash: vector.model.weightHash,
    method: vector.method,
    notes: JSON.stringify(vector.notes),
  });
}

function readNative(file: string): SteeringVector {
  const { metadata, tensors } = readSafetensors(file);
  if (metadata.format !== FORMAT) return fromTensors(file, tensors, {});
  if (metadata.version !== VERSION)
    throw new DataError(
      "ERR_VECTOR_FORMAT",
      `${file}: expected version ${VERSION}, got ${metadata.version}`,
      {
        remedies: ["a newer release of this package wrote it; update"],
      },
    );
  const order = jsonOf<string[]>(metadata.sites) ?? [...tensors.keys()];
  const init: Omit<SteeringVectorInit, "directions"> = {
    name: metadata.name ?? "",
    method: metadata.method ?? "",
    model: { name: metadata.base_model ?? "", weightHash: metadata.weight_hash ?? "" },
    notes: jsonOf<Record<string, string>>(metadata.notes) ?? {},
  };
  const directions = new Map<string, Float32Array>();
  for (const site of order) {
    const tensor = tensors.get(site);
    if (tensor?.shape.length !== 1)
      throw new DataError(
        "ERR_VECTOR_FORMAT",
        `${file}: expected a 1-D tensor named ${site}, got ${
          tensor ? `shape [${tensor.shape.join(", ")}]` : "none"
        }`,
      );
    directions.set(site, toFloat32(tensor));
  }
  return new SteeringVector({ ...init, directions });
}

/**
 * A vector from plain tensors: 1-D ones by a name that holds a layer number, a site or nothing; one 2-D
 * tensor is [layer, width] from layer 0 on.
 */
export function fromTensors(
  file: string,
  tensors: ReadonlyMap<string, FormatTensor>,
  init: Omit<SteeringVectorInit, "directions">,
): SteeringVector {
  const directions = new Map<string, Float32Array>();
  for (const [name, tensor] of tensors) {
    const values = toFloat32(tensor);
    const shape = tensor.shape.filter((size, i) => size !== 1 || i === tensor.shape.length - 1);
    if (shape.length === 1) {
      directions.set(siteOfTensor(name, tensors.size), values);
    } else if (shape.length === 2 && tensors.size === 1) {
      const width = shape[1]!;
      for (let layer = 0; layer < shape[0]!; layer++)
        directions.set(layerSite(layer), values.subarray(layer * width, (layer + 1) * width));
    } else {
      throw new DataError(
        "ERR_VECTOR_FORMAT",
        `${file}: expected 1-D tensors or one of [layers, width], got ${name || "an array"} of shape [${tensor.shape.join(", ")}]`,
        { details: { file, tensor: name, shape: [...tensor.shape] } },
      );
    }
  }
  return new SteeringVector({ ...init, directions });
}

function siteOfTensor(name: string, count: number): string {
  const layer = /^(?:.*[._])?(?:layers?|blk|h|direction)?[._]?(\d+)$/.exec(name);
  if (layer) return layerSite(Number(layer[1]));
  return count === 1 && !name.includes(".") ? ANY_SITE : name;
}

async function readJson(file: string): Promise<SteeringVector> {
  let value: unknown;
  try {
    value = JSON.parse(await readFile(file, "utf8"));
  } catch (cause) {
    throw new DataError("ERR_VECTOR_FORMAT", `${file}: expected JSON, got ${(cause as Error).message}`, {
      cause,
    });
  }
  if (Array.isArray(value)) {
    const nested = value.length > 0 && Array.isArray(value[0]);
    const directions = nested
      ? new Map((value as number[][]).map((row, layer) => [layer, row]))
      : (value as number[]);
    return new SteeringVector({ directions });
  }
  if (typeof value !== "object" || value === null || !("directions" in value))
    throw new DataError("ERR_VECTOR_FORMAT", `${file}: expected { directions } or an array of numbers`, {
      remedies: ['write { "directions": { "16": [ ... ] } }, layers as keys'],
    });
  const { directions, name, method, model, notes } = value as SteeringVectorInit;
  return new SteeringVector({
    directions,
    ...(name === undefined ? {} : { name }),
    ...(method === undefined ? {} : { method }),
    ...(model === undefined ? {} : { model }),
    ...(notes === undefined ? {} : { notes }),
  });
}

function asJson(vector: SteeringVector): unknown {
  const { name, model, method, notes } = vector;
  const directions = Object.fromEntries(vector.sites.map((site) => [site, Array.from(vector.at(site))]));
  return { name, model, method, notes, directions };
}

/** One direction as [width], layers 0 .. n - 1 as [n, width]: all that a bare array can say. */
function asOneTensor(vector: SteeringVector, path: string): FormatTensor {
  const { sites, width } = vector;
  if (sites.length === 1) return float32Tensor(vector.at(sites[0]!));
  const inOrder = sites.every((site, index) => site === layerSite(index));
  if (!inOrder)
    throw new DataError(
      "ERR_VECTOR_FORMAT",
      `${path}: expected one site or all layers from 0 on, got ${sites.join(", ")}`,
      {
        remedies: ["save as .safetensors, which names its sites", "take one layer: vector.only([16])"],
      },
    );
  const values = new Float32Array(sites.length * width);
  sites.forEach((site, index) => {
    values.set(vector.at(site), index * width);
  });
  return float32Tensor(values, [sites.length, width]);
}

function unknownEnding(path: string): DataError {
  return new DataError(
    "ERR_VECTOR_FORMAT",
    `vector: expected a file ending in ${ENDINGS.join(", ")}, got ${path}`,
    {
      details: { path, endings: ENDINGS },
      remedies: ["take .safetensors, which holds every vector"],
    },
  );
}

function jsonOf<T>(text: string | undefined): T | undefined {
  if (text === undefined || text === "") return undefined;
  try {
    return JSON.parse(text) as T;
  } catch {
    return undefined;
  }
}
