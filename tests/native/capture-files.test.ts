// SPDX-License-Identifier: Apache-2.0
// Captures in files: written while the model runs, the same bytes whatever the chunks.
// Read back by our own readers, and by safetensors and pyarrow where a Python has them.
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { tableFromIPC } from "apache-arrow";
import { describe, expect, test } from "vitest";
import { bfloat16ToFloat32, float32ToBfloat16, float32ToFloat16 } from "../../src/formats/half.ts";
import { readNpy } from "../../src/formats/npy.ts";
import { readSafetensors } from "../../src/formats/safetensors.ts";
import { toFloat32, toIntegers } from "../../src/formats/tensor.ts";
import { SteerModel } from "../../src/model/steer-model.ts";
import { listModels } from "../../src/model/store.ts";
import { file, model, PROMPTS, SITES } from "./capture-world.ts";

const NAMES = ["embed", "layers.0", "layers.3", "final"];

/** What a file of PROMPTS must hold, from captures that were held to the end, prompt by prompt. */
async function expected(maxTokens: number, stop: number[] = []) {
  const sites = new Map(NAMES.map((name) => [name, [] as number[]]));
  const [text, position]: [number[], number[]] = [[], []];
  for (const [index, prompt] of PROMPTS.entries()) {
    const options = { capture: { sites: SITES } };
    const { captures } =
      maxTokens === 0
        ? await model.forward(prompt, options)
        : await model.generate(prompt, { ...options, maxTokens, temperature: 0, stopIds: stop });
    for (const name of NAMES) sites.get(name)!.push(...captures![name]!.data);
    position.push(...captures!.embed!.positions);
    text.push(...captures!.embed!.positions.map(() => index));
  }
  return { sites, text, position };
}

function worst(got: Float32Array | number[], wanted: number[]): number {
  expect(got.length).toBe(wanted.length);
  let most = 0;
  wanted.forEach((value, i) => {
    most = Math.max(most, Math.abs(got[i]! - value));
  });
  return most;
}

describe("a safetensors file", () => {
  test("holds every row of every prompt in order, prompt rows and generated rows", async () => {
    const wanted = await expected(9);
    const written = await model.captureToFile(file("all.safetensors"), PROMPTS, {
      ...{ sites: SITES, maxTokens: 9, temperature: 0, together: 3, chunkBytes: 0 },
    });
    const { tensors, metadata } = readSafetensors(file("all.safetensors"));
    expect(written.rows).toBe(wanted.text.length);
    expect(toIntegers(tensors.get("text")!)).toEqual(wanted.text);
    expect(toIntegers(tensors.get("position")!)).toEqual(wanted.position);
    for (const name of NAMES) {
      expect(tensors.get(name)!.shape).toEqual([wanted.text.length, 64]);
      expect(written.shapes[name]).toEqual([wanted.text.length, 64]);
      expect(
        worst(toFloat32(tensors.get(name)!), wanted.sites.get(name)!),
        `worst deviation at ${name}`,
      ).toBe(0);
    }
    expect(metadata).toMatchObject({ format: "chatspace-capture", base_model: "stories260k", prompts: "7" });
  });

  test("is the same to the byte in one chunk or in many, run together or one by one", async () => {
    const stop = [...(await model.generate(PROMPTS[4]!, { maxTokens: 30, temperature: 0 })).tokens].slice(
      5,
      8,
    );
    const options = { sites: SITES, maxTokens: 30, temperature: 0, stopIds: stop } as const;
    const ways = [
      { chunkBytes: 0, together: 1 },
      { chunkBytes: 0, together: 7 },
      { chunkBytes: 3000, together: 4, bufferBytes: 50_000 },
      { chunkBytes: 1 << 24, together: 32 },
    ];
    const files: Buffer[] = [];
    for (const [i, way] of ways.entries()) {
      await model.captureToFile(file(`way${i}.safetensors`), PROMPTS, { ...options, ...way });
      files.push(readFileSync(file(`way${i}.safetensors`)));
    }
    files.forEach((bytes, i) => {
      expect(bytes.equals(files[0]!), JSON.stringify(ways[i])).toBe(true);
    });
    // Prompts that stopped early left gaps, which were closed.
    const wanted = await expected(30, stop);
    const { tensors } = readSafetensors(file("way0.safetensors"));
    expect(toIntegers(tensors.get("position")!)).toEqual(wanted.position);
    expect(wanted.position.length).toBeLessThan(PROMPTS.reduce((sum, p) => sum + p.length + 29, 0));
    for (const name of NAMES) expect(worst(toFloat32(tensors.get(name)!), wanted.sites.get(name)!)).toBe(0);
  });

  test("in half precision holds the rows rounded to nearest even", async () => {
    const wanted = await expected(0);
    for (const [dtype, name, bits] of [
      ["bfloat16", "BF16", float32ToBfloat16],
      ["float16", "F16", float32ToFloat16],
    ] as const) {
      await model.captureToFile(file(`${dtype}.safetensors`), PROMPTS, { sites: SITES, dtype });
      const { tensors } = readSafetensors(file(`${dtype}.safetensors`));
      const tensor = tensors.get("layers.3")!;
      expect(tensor.dtype).toBe(name);
      const rounded = bits(Float32Array.from(wanted.sites.get("layers.3")!));
      expect(new Uint16Array(tensor.data.slice().buffer)).toEqual(rounded);
      if (dtype === "bfloat16") expect([...toFloat32(tensor)]).toEqual([...bfloat16ToFloat32(rounded)]);
    }
  });

  test("pooled and reduced: one row a prompt, the indices of the largest beside their values", async () => {
    await model.captureToFile(file("pool.safetensors"), PROMPTS, { sites: [2], pool: "mean", maxTokens: 4 });
    expect(readSafetensors(file("pool.safetensors")).tensors.get("layers.2")!.shape).toEqual([7, 64]);
    await model.captureToFile(file("lens.safetensors"), PROMPTS, {
      sites: [2],
      reduce: { lens: 5 },
      positions: [-1],
    });
    const { tensors } = readSafetensors(file("lens.safetensors"));
    const whole = await model.forward(PROMPTS[6]!, {
      capture: { sites: [2], reduce: { lens: 5 }, positions: [-1] },
    });
    expect(tensors.get("layers.2")!.shape).toEqual([7, 5]);
    expect(toIntegers(tensors.get("layers.2.indices")!).slice(-5)).toEqual([
      ...whole.captures["layers.2"]!.indices!,
    ]);
  });
});

test("an Arrow file holds the same rows, in order, a batch a chunk", async () => {
  const wanted = await expected(9);
  await model.captureToFile(file("all.arrow"), PROMPTS, {
    ...{ sites: SITES, maxTokens: 9, temperature: 0, together: 3, chunkBytes: 0 },
  });
  const table = tableFromIPC(readFileSync(file("all.arrow")));
  expect(table.numRows).toBe(wanted.text.length);
  expect(table.batches.length).toBeGreaterThan(60);
  expect([...(table.getChild("text")!.toArray() as Int32Array)]).toEqual(wanted.text);
  expect([...(table.getChild("position")!.toArray() as Int32Array)]).toEqual(wanted.position);
  for (const name of NAMES) {
    const rows = [...table.getChild(name)!].flatMap((row) => [...(row as Iterable<number>)]);
    expect(worst(rows, wanted.sites.get(name)!), `worst deviation at ${name}`).toBe(0);
  }
  expect(table.schema.metadata.get("base_model")).toBe("stories260k");
  await model.captureToFile(file("half.arrow"), PROMPTS, { sites: [0], dtype: "float16" });
  expect(tableFromIPC(readFileSync(file("half.arrow"))).numRows).toBeGreaterThan(50);
  await expect(
    model.captureToFile(file("no.arrow"), PROMPTS, { sites: [0], dtype: "bfloat16" }),
  ).rejects.toMatchObject({ code: "ERR_ARGUMENT_TYPE" });
});

test("a .npy file holds the rows of its one site", async () => {
  const wanted = await expected(0);
  await model.captureToFile(file("one.npy"), PROMPTS, { sites: ["layers.3"] });
  expect(worst(toFloat32(readNpy(file("one.npy"))), wanted.sites.get("layers.3")!)).toBe(0);
  await expect(model.captureToFile(file("two.npy"), PROMPTS, { sites: [0, 1] })).rejects.toMatchObject({
    code: "ERR_ARGUMENT_TYPE",
  });
  await expect(model.captureToFile(file("x.bin"), PROMPTS, { sites: [0] })).rejects.toMatchObject({
    code: "ERR_ARGUMENT_TYPE",
  });
});

test("Python's own readers agree", async (context) => {
  const python = ["python3", process.env.CHATSPACE_BENCH_PYTHON ?? ""].find(
    (each) =>
      each !== "" &&
      spawnSync(each, ["-c", "import safetensors.numpy, pyarrow.ipc, numpy"], { timeout: 30_000 }).status ===
        0,
  );
  if (python === undefined) return context.skip("no Python with safetensors and pyarrow");
  const wanted = await expected(0);
  await model.captureToFile(file("py.safetensors"), PROMPTS, { sites: SITES });
  await model.captureToFile(file("py.arrow"), PROMPTS, { sites: SITES });
  const script = `
import json, sys, numpy as np, pyarrow.ipc
from safetensors.numpy import load_file
st = load_file(sys.argv[1]); t = pyarrow.ipc.open_file(sys.argv[2]).read_all()
assert str(t.schema.field("embed").type).startswith("fixed_size_list<item: float"), t.schema
for name in ("embed", "layers.0", "layers.3", "final"):
    a = np.array(t[name].to_pylist(), dtype=np.float32)
    assert (a == st[name]).all(), name
assert (t["position"].to_numpy() == st["position"]).all() and (t["text"].to_numpy() == st["text"]).all()
print(json.dumps({"sum": float(np.abs(st["layers.3"].astype(np.float64)).sum()), "rows": len(t)}))`;
  const run = spawnSync(python, ["-c", script, file("py.safetensors"), file("py.arrow")], {
    encoding: "utf8",
  });
  expect(run.stderr).toBe("");
  const told = JSON.parse(run.stdout) as { sum: number; rows: number };
  expect(told.rows).toBe(wanted.text.length);
  const sum = wanted.sites.get("layers.3")!.reduce((total, x) => total + Math.abs(x), 0);
  expect(Math.abs(told.sum / sum - 1)).toBeLessThan(1e-12);
});

const CHAT_MODEL = "smollm2-135m-instruct";
const state = listModels().find(({ name }) => name === CHAT_MODEL)?.state;
test.skipIf(state !== "ready" && state !== "fetched")(
  "conversations are stored with the message of each row, and by message alone when asked",
  async () => {
    const chatModel = await SteerModel.load(CHAT_MODEL, { device: "cpu", quantize: "stored" });
    const chat = [
      { role: "system", content: "Be brief." },
      { role: "user", content: "Say hi." },
      { role: "assistant", content: "Hi." },
      { role: "user", content: "Again" },
    ];
    const options = { sites: [3], maxTokens: 4, temperature: 0, ignoreEos: true } as const;
    const { boundaries } = await chatModel.chat(chat, { maxTokens: 4, temperature: 0, ignoreEos: true });
    const of = (position: number) => boundaries.findIndex(({ endToken }) => position < endToken);
    await chatModel.captureToFile(file("chat.safetensors"), [chat, "no conversation"], options);
    const { tensors } = readSafetensors(file("chat.safetensors"));
    const [text, position, message] = ["text", "position", "message"].map((name) =>
      toIntegers(tensors.get(name)!),
    );
    expect(message).toEqual(position!.map((each, row) => (text![row] === 0 ? of(each) : -1)));
    expect(new Set(message)).toEqual(new Set([0, 1, 2, 3, 4, -1]));
    const picked = { ...options, messages: ["answer", 1], pool: "mean" } as const;
    await chatModel.captureToFile(file("picked.safetensors"), [chat, chat.slice(0, 2)], picked);
    expect(readSafetensors(file("picked.safetensors")).tensors.get("layers.3")!.shape).toEqual([2, 576]);
    // Pooled by message: the mean of each message's rows, its last position beside it.
    await chatModel.captureToFile(file("means.safetensors"), chat, {
      ...options,
      pool: "mean",
      poolBy: "message",
    });
    const means = readSafetensors(file("means.safetensors")).tensors;
    expect(toIntegers(means.get("message")!)).toEqual([0, 1, 2, 3, 4]);
    const whole = toFloat32(tensors.get("layers.3")!);
    const got = toFloat32(means.get("layers.3")!);
    let most = 0;
    for (let m = 0; m < 5; m++) {
      const rows = message!.flatMap((each, row) => (each === m ? [row] : []));
      expect(toIntegers(means.get("position")!)[m]).toBe(position![rows.at(-1)!]);
      for (let k = 0; k < 576; k++) {
        const mean = rows.reduce((sum, row) => sum + whole[row * 576 + k]!, 0) / rows.length;
        most = Math.max(most, Math.abs(mean - got[m * 576 + k]!) / Math.max(1, Math.abs(mean)));
      }
    }
    expect(most, "worst relative deviation of a mean").toBeLessThan(1e-6);
    await expect(
      chatModel.forward(chat, { capture: { sites: [3], poolBy: "message" } }),
    ).rejects.toMatchObject({ code: "ERR_ARGUMENT_TYPE" });
    await chatModel.dispose();
  },
);
