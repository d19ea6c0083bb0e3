// SPDX-License-Identifier: Apache-2.0
// Vector files: what is saved comes back, other people's files are read, and what cannot be held is said.
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, test } from "vitest";
import { float32Tensor } from "../../src/formats/tensor.ts";
import { type TorchInput, writeTorchSave } from "../../src/formats/torch-save-writer.ts";
import { loadSteeringProgram } from "../../src/steering/program-files.ts";
import { SteeringVector } from "../../src/steering/vector.ts";
import { resolveVector } from "../../src/steering/vector-names.ts";

const folder = mkdtempSync(join(tmpdir(), "chatspace-vectors-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const shared = (path: string) => fileURLToPath(new URL(`../../../shared/${path}`, import.meta.url));

const WIDTH = 5;
const direction = (seed: number) =>
  Float32Array.from({ length: WIDTH }, (_, i) => Math.sin(seed * 7 + i) / 3);
const layered = (layers: number[]) =>
  new SteeringVector({
    name: "happy",
    directions: new Map(layers.map((layer) => [layer, direction(layer)])),
    model: { name: "tiny", weightHash: "ab".repeat(32) },
    method: "difference of means",
    notes: { data: "RepE" },
  });
const same = (a: SteeringVector, b: SteeringVector) => {
  expect(a.sites).toEqual(b.sites);
  for (const site of a.sites) expect(Array.from(a.at(site))).toEqual(Array.from(b.at(site)));
};

describe("saved and loaded", () => {
  test.each([".safetensors", ".json"])("%s keeps everything", async (ending) => {
    const vector = layered([11, 2, 0]);
    const path = join(folder, `all${ending}`);
    await vector.save(path);
    const back = await SteeringVector.load(path);
    same(back, vector);
    expect(back).toMatchObject({ name: "happy", method: "difference of means", notes: { data: "RepE" } });
    expect(back.model).toEqual(vector.model);
  });

  test("sites that are no layers keep their names", async () => {
    const directions = new Map([
      ["layers.3.mlp", direction(1)],
      ["final", direction(2)],
    ]);
    const vector = new SteeringVector({ directions });
    const path = join(folder, "sites.safetensors");
    await vector.save(path);
    same(await SteeringVector.load(path), vector);
  });

  test(".npy keeps one direction, or all layers", async () => {
    const all = layered([0, 1, 2]);
    await all.save(join(folder, "layers.npy"));
    same(await SteeringVector.load(join(folder, "layers.npy")), all);
    const one = new SteeringVector({ directions: direction(4) });
    await one.save(join(folder, "one.npy"));
    same(await SteeringVector.load(join(folder, "one.npy")), one);
  });

  test(".gguf keeps layers under their 0-based numbers", async () => {
    const vector = layered([1, 2, 7]);
    const path = join(folder, "v.gguf");
    await vector.save(path);
    const back = await SteeringVector.load(path);
    same(back, vector);
    expect(back.layers).toEqual([1, 2, 7]);
  });

  test("chatspace's .pt keeps layers, and a direction that has none", async () => {
    const vector = layered([3, 5]);
    await vector.save(join(folder, "layers.pt"));
    same(await SteeringVector.load(join(folder, "layers.pt")), vector);
    const bare = new SteeringVector({ directions: direction(1) });
    const path = join(folder, "steering_vector.pt");
    await bare.save(path);
    same(await SteeringVector.load(folder), bare);
    writeFileSync(join(folder, "steering_config.json"), '{"model_name":"m","target_layer":4,"init_scale":0}');
    const placed = await SteeringVector.load(path);
    expect(placed.layers).toEqual([4]);
    expect(placed.model.name).toBe("m");
    rmSync(path);
  });

  test("a checkpoint with caps and ablations is a program, not a vector", async () => {
    const path = join(folder, "checkpoint.pt");
    const tensor = (seed: number) => float32Tensor(direction(seed));
    const root = new Map<string, TorchInput>([
      [
        "layer_vectors",
        new Map([
          [5, tensor(1)],
          [2, tensor(2)],
        ]),
      ],
      ["steering_vector", null],
      [
        "projection_caps",
        new Map([
          [
            5,
            new Map<string, TorchInput>([
              ["vector", tensor(3)],
              ["min", null],
              ["max", 2.5],
            ]),
          ],
        ]),
      ],
      [
        "ablations",
        new Map([
          [
            5,
            new Map<string, TorchInput>([
              ["vector", tensor(4)],
              ["scale", 0.25],
            ]),
          ],
        ]),
      ],
    ]);
    writeFileSync(path, writeTorchSave(root));
    await expect(SteeringVector.load(path)).rejects.toMatchObject({ code: "ERR_VECTOR_FORMAT" });
    expect(loadSteeringProgram(path)).toEqual([
      { layer: 2, op: "add", vector: direction(2) },
      { layer: 5, op: "add", vector: direction(1) },
      { layer: 5, op: "cap", vector: direction(3), max: 2.5 },
      { layer: 5, op: "ablate", vector: direction(4), scale: 0.25 },
    ]);
    const bare = join(folder, "tensor.pt");
    writeFileSync(bare, writeTorchSave(tensor(1)));
    expect(() => loadSteeringProgram(bare)).toThrow(expect.objectContaining({ code: "ERR_VECTOR_FORMAT" }));
    same(await SteeringVector.load(bare), new SteeringVector({ directions: direction(1) }));
  });

  test("a save that fails leaves no half file behind", async () => {
    const path = join(folder, "absent", "v.safetensors");
    await expect(layered([1]).save(path)).rejects.toMatchObject({ code: "ERR_FILE_WRITE" });
    expect(readdirSync(folder).filter((name) => name.endsWith(".tmp"))).toEqual([]);
  });
});

describe("what a format cannot hold", () => {
  test.each([
    ["gap.npy", layered([0, 2])],
    ["zero.gguf", layered([0, 1])],
    ["bare.gguf", new SteeringVector({ directions: direction(1) })],
    ["v.txt", layered([0])],
    ["v.pt", new SteeringVector({ directions: new Map([["final", direction(1)]]) })],
  ])("%s", async (name, vector) => {
    await expect(vector.save(join(folder, name))).rejects.toMatchObject({ code: "ERR_VECTOR_FORMAT" });
    expect(existsSync(join(folder, name))).toBe(false);
  });
});

describe("what is refused", () => {
  const file = (name: string, content: string | Uint8Array) => {
    const path = join(folder, name);
    writeFileSync(path, content);
    return path;
  };
  test.each([
    ["a file that is not there", () => join(folder, "nothing.npy"), "ERR_VECTOR_FILE"],
    ["a folder without a vector", () => folder, "ERR_VECTOR_FILE"],
    ["an unknown ending", () => file("v.bin", "x"), "ERR_VECTOR_FORMAT"],
    ["JSON that is none", () => file("bad.json", "{"), "ERR_VECTOR_FORMAT"],
    ["JSON of something else", () => file("other.json", '{"a":1}'), "ERR_VECTOR_FORMAT"],
    ["JSON with a NaN", () => file("nan.json", "[1, null]"), "ERR_VECTOR_NOT_FINITE"],
    ["safetensors that are none", () => file("bad.safetensors", "12345678901234567890"), "ERR_SAFETENSORS"],
    ["a GGUF that is none", () => file("bad.gguf", "GGML".repeat(20)), "ERR_GGUF"],
    ["a .pt that is none", () => file("bad.pt", "x".repeat(200)), "ERR_TORCH_SAVE"],
  ])("%s", async (_name, path, code) => {
    await expect(SteeringVector.load(path())).rejects.toMatchObject({ code });
  });

  test("a name that is none, with the names that are", async () => {
    await expect(resolveVector("hapy")).rejects.toMatchObject({ code: "ERR_VECTOR_UNKNOWN" });
  });
});

const FOREIGN = shared("data/control-vectors");
describe.skipIf(!existsSync(FOREIGN))("real control vectors (../shared is absent)", () => {
  const files = existsSync(FOREIGN) ? readdirSync(FOREIGN).filter((name) => name.endsWith(".gguf")) : [];
  test.each(files)("%s", async (name) => {
    const vector = await SteeringVector.load(join(FOREIGN, name));
    expect([28, 32]).toContain(vector.layers.length);
    expect(vector.layers).toEqual(vector.layers.map((_, layer) => layer));
    expect(vector.width).toBe(name === "create.gguf" ? 4096 : 1536);
    expect(vector.norm()).toBeGreaterThan(0);
  });
});
