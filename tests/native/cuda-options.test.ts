// SPDX-License-Identifier: Apache-2.0
// Options of the CUDA half on a machine that runs the CPU: refused with a reason, or honestly without effect.
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { DeviceError, SteerModel } from "../../src/index.ts";
import { convert } from "../../src/model/convert.ts";
import { fixture } from "./foreign-world.ts";

const EXPERTS = fileURLToPath(new URL("../../../shared/golden/decoders/qwen3-moe", import.meta.url));

describe("options of the CUDA half on the CPU", () => {
  let plain: SteerModel;
  beforeAll(async () => {
    plain = await SteerModel.load("stories260k", { device: "cpu" });
  });
  afterAll(() => plain?.dispose());

  it("cudaGraphs is refused, not ignored", async () => {
    const load = SteerModel.load("stories260k", { device: "cpu", cudaGraphs: "on" });
    await expect(load).rejects.toMatchObject({ code: "ERR_GRAPHS_DEVICE" });
    await expect(load).rejects.toBeInstanceOf(DeviceError);
  });

  it("cudaGraphs is refused for a stranger's archive, whose step may be anything", async () => {
    const load = SteerModel.load(fixture("tensor.pt"), { device: "cpu", cudaGraphs: "on" });
    await expect(load).rejects.toMatchObject({ code: "ERR_GRAPHS_MODEL" });
  });

  it.skipIf(!existsSync(EXPERTS))("cudaGraphs is refused for a mixture of experts", async () => {
    const folder = mkdtempSync(join(tmpdir(), "chatspace-experts-"));
    const archive = join(folder, "experts.pt");
    await convert(EXPERTS, archive);
    const load = SteerModel.load(archive, { device: "cpu", cudaGraphs: "on" });
    await expect(load).rejects.toMatchObject({ code: "ERR_GRAPHS_MODEL" });
    rmSync(folder, { recursive: true, force: true });
  });

  it("flashAttention is refused where no layer could use it, with the reason", async () => {
    const cpu = SteerModel.load("stories260k", { device: "cpu", dtype: "bfloat16", flashAttention: "on" });
    await expect(cpu).rejects.toMatchObject({
      code: "ERR_FLASH_ATTENTION",
      message: expect.stringMatching(/the CPU/),
    });
    await expect(cpu).rejects.toBeInstanceOf(DeviceError);
    const stranger = SteerModel.load(fixture("tensor.pt"), { device: "cpu", flashAttention: "on" });
    await expect(stranger).rejects.toMatchObject({
      code: "ERR_FLASH_ATTENTION",
      message: expect.stringMatching(/archive of our own/),
    });
    const misuse = SteerModel.load("stories260k", { device: "cpu", flashAttention: true as unknown as "on" });
    await expect(misuse).rejects.toBeInstanceOf(TypeError);
  });

  it("a value that is neither on nor off is misuse", async () => {
    const load = SteerModel.load("stories260k", { device: "cpu", cudaGraphs: "auto" as "on" });
    await expect(load).rejects.toBeInstanceOf(TypeError);
  });

  it("no graph is recorded where none was asked for", async () => {
    await plain.generate("Once", { maxTokens: 3 });
    expect(plain.stats()).toMatchObject({
      graphsRecorded: 0,
      graphSteps: 0,
      graphOverflows: 0,
      flashLayers: 0,
    });
  });

  it("reproducible changes nothing on the CPU, which always is", async () => {
    const model = await SteerModel.load("stories260k", { device: "cpu", reproducible: true });
    const want = await plain.forward("Once upon a time", { logits: "all" });
    const got = await model.forward("Once upon a time", { logits: "all" });
    expect(got.logits).toEqual(want.logits);
    await model.dispose();
  });
});
