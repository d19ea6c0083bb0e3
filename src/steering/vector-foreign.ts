// SPDX-License-Identifier: Apache-2.0
// Other people's vector files: GGUF control vectors (llama.cpp, repeng, EasySteer) and the checkpoints of
// chatspace (torch.save).

import { existsSync, readFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { DataError } from "../errors.ts";
import { readGgufTensors } from "../formats/gguf.ts";
import { type GgufField, writeGguf } from "../formats/gguf-writer.ts";
import { type FormatTensor, float32Tensor, toFloat32 } from "../formats/tensor.ts";
import { readTorchSave } from "../formats/torch-save.ts";
import { type TorchInput, writeTorchSave } from "../formats/torch-save-writer.ts";
import { layerSite, siteLayer } from "./sites.ts";
import { ANY_SITE, SteeringVector } from "./vector.ts";

/**
 * `direction.N` is added to the output of the 0-based layer N: llama.cpp applies it there and has no slot
 * for layer 0, which is why its files count from 1; files of EasySteer do have `direction.0`.
 */
export function readControlVector(file: string): SteeringVector {
  const { metadata, tensors } = readGgufTensors(file);
  const layers = [...tensors]
    .map(([name, tensor]) => ({ layer: Number(/^direction\.(\d+)$/.exec(name)?.[1] ?? Number.NaN), tensor }))
    .filter(({ layer }) => Number.isInteger(layer))
    .sort((a, b) => a.layer - b.layer);
  if (layers.length === 0)
    throw new DataError("ERR_VECTOR_FORMAT", `${file}: expected tensors named direction.N, got none`, {
      details: { file, tensors: [...tensors.keys()].slice(0, 8) },
      remedies: ["a GGUF model is no control vector; use it with --model"],
    });
  const text = (key: string) => String(metadata.get(`controlvector.${key}`) ?? "");
  const method = text("method");
  return new SteeringVector({
    name: basename(file, ".gguf"),
    directions: new Map(layers.map(({ layer, tensor }) => [layerSite(layer), oneRow(file, tensor)])),
    method: method === "" ? "GGUF control vector" : `GGUF control vector, ${method}`,
    notes: { model_hint: text("model_hint") },
  });
}

/** @throws DataError ERR_VECTOR_FORMAT for sites that are no layers, and for layer 0, which the format lacks. */
export function writeControlVector(vector: SteeringVector): Uint8Array {
  const tensors = new Map<string, FormatTensor>();
  for (const site of vector.sites) {
    const layer = siteLayer(site);
    if (layer === undefined || layer === 0)
      throw new DataError(
        "ERR_VECTOR_FORMAT",
        `GGUF control vector: expected layers from 1 on, got ${site === "*" ? "a direction without a layer" : site}`,
        {
          details: { site },
          remedies: [
            "llama.cpp has no control vector at layer 0 and refuses a file with direction.0",
            "leave it out: vector.only(vector.layers.filter((layer) => layer > 0))",
          ],
        },
      );
    tensors.set(`direction.${layer}`, float32Tensor(vector.at(site)));
  }
  const metadata: Record<string, GgufField> = {
    "general.architecture": { type: "string", value: "controlvector" },
    "controlvector.model_hint": { type: "string", value: vector.notes.model_hint ?? vector.model.name },
    "controlvector.layer_count": { type: "uint32", value: Math.max(...vector.layers) + 1 },
    "controlvector.method": { type: "string", value: vector.method },
  };
  return writeGguf(metadata, tensors);
}

/**
 * chatspace's `steering_vector.pt`: { steering_vector } with the layer in `steering_config.json` beside it,
 * or { layer_vectors: { layer: tensor } }; a bare tensor is a direction without a layer.
 */
export function readTorchVector(file: string): SteeringVector {
  const root: unknown = readTorchSave(file);
  // The config belongs to the file of this name; other files may lie in the same folder.
  const own = /^steering_vectors?\.pth?$/.test(basename(file));
  const config = own ? readConfig(join(dirname(file), "steering_config.json")) : {};
  const name = basename(file).replace(/\.pth?$/, "");
  const init = {
    name,
    method: "trained by chatspace",
    ...(typeof config.model_name === "string" ? { model: { name: config.model_name } } : {}),
  };
  const tensor = tensorOf(root) ?? tensorOf(entry(root, "steering_vector"));
  const byLayer = directionsByLayer(file, entry(root, "layer_vectors"));
  const more = ["projection_caps", "ablations"].filter((key) => keysOf(entry(root, key)).length > 0);
  if (more.length > 0)
    throw new DataError(
      "ERR_VECTOR_FORMAT",
      `${file}: expected vectors alone, got ${more.join(" and ")} as well`,
      {
        details: { file, also: more },
        remedies: ["loadSteeringProgram(path) reads the whole program"],
      },
    );
  if (byLayer.size > 0) return new SteeringVector({ ...init, directions: byLayer });
  if (!tensor)
    throw new DataError(
      "ERR_VECTOR_FORMAT",
      `${file}: expected a tensor, { steering_vector } or { layer_vectors }, got ${keysOf(root).join(", ") || typeof root}`,
      { details: { file, keys: keysOf(root) } },
    );
  const layer = config.target_layer;
  const values = oneRow(file, tensor);
  const directions = typeof layer === "number" ? new Map([[layer, values]]) : values;
  return new SteeringVector({ ...init, directions });
}

/**
 * The form chatspace saves: { layer_vectors, steering_vector, projection_caps, ablations }; a direction
 * without a layer is { steering_vector } alone.
 * @throws DataError ERR_VECTOR_FORMAT for sites that are no layers.
 */
export function writeTorchVector(vector: SteeringVector): Uint8Array {
  const [only] = vector.sites.length === 1 ? vector.sites.map((site) => float32Tensor(vector.at(site))) : [];
  if (vector.sites[0] === ANY_SITE) return writeTorchSave(new Map([["steering_vector", only ?? null]]));
  const layers = new Map<number, FormatTensor>();
  for (const site of vector.sites) {
    const layer = siteLayer(site);
    if (layer === undefined)
      throw new DataError("ERR_VECTOR_FORMAT", `steering_vector.pt: expected layers, got the site ${site}`, {
        details: { site },
        remedies: ["save as .safetensors, which holds every site"],
      });
    layers.set(layer, float32Tensor(vector.at(site)));
  }
  return writeTorchSave(
    new Map<string, TorchInput>([
      ["layer_vectors", layers],
      ["steering_vector", only ?? null],
      ["projection_caps", new Map()],
      ["ablations", new Map()],
    ]),
  );
}

function directionsByLayer(file: string, value: unknown): Map<number, Float32Array> {
  const found = new Map<number, Float32Array>();
  for (const key of keysOf(value)) {
    const tensor = tensorOf(entry(value, key));
    if (tensor && /^\d+$/.test(key)) found.set(Number(key), oneRow(file, tensor));
  }
  return found;
}

/** torch.save gives dictionaries as Map (any key) or as plain objects; both are read. */
export function entry(value: unknown, key: string): unknown {
  if (value instanceof Map) return value.get(key) ?? value.get(Number(key));
  if (typeof value !== "object" || value === null) return undefined;
  return (value as Record<string, unknown>)[key];
}

export function keysOf(value: unknown): string[] {
  if (value instanceof Map) return [...value.keys()].map(String);
  return typeof value === "object" && value !== null ? Object.keys(value) : [];
}

export function tensorOf(value: unknown): FormatTensor | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  const { dtype, shape, data } = value as Partial<FormatTensor>;
  return typeof dtype === "string" && Array.isArray(shape) && data instanceof Uint8Array
    ? (value as FormatTensor)
    : undefined;
}

export function oneRow(file: string, tensor: FormatTensor): Float32Array {
  const rows = tensor.shape.filter((size) => size !== 1);
  if (rows.length <= 1) return toFloat32(tensor);
  throw new DataError(
    "ERR_VECTOR_FORMAT",
    `${file}: expected 1-D directions, got shape [${tensor.shape.join(", ")}]`,
    {
      details: { file, shape: [...tensor.shape] },
    },
  );
}

function readConfig(path: string): Record<string, unknown> {
  if (!existsSync(path)) return {};
  try {
    return JSON.parse(readFileSync(path, "utf8")) as Record<string, unknown>;
  } catch (cause) {
    throw new DataError("ERR_VECTOR_FORMAT", `${path}: expected JSON, got ${(cause as Error).message}`, {
      cause,
    });
  }
}
