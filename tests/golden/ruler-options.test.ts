// SPDX-License-Identifier: Apache-2.0
// Upstream's other options: seeds, model templates, chunks, one-line prompts, templates added later. Hashes of what
// NVIDIA/RULER at c3f5e3b4 wrote with cl100k_base and the stand-in data of ../shared.
import { createHash } from "node:crypto";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { openHaystacks } from "../../src/ruler/data/haystacks.ts";
import { type GenerateOptions, generateRows, rowLine } from "../../src/ruler/generate.ts";
import { selectTasks } from "../../src/ruler/tasks/table.ts";
import { selectTokenizer } from "../../src/ruler/tokens/select.ts";
import { dataRoot, hasGolden } from "./ruler-golden.ts";

type Options = Omit<GenerateOptions, "counter" | "data">;
const RECORDED: ReadonlyArray<readonly [task: string, options: Options, sha256: string]> = [
  [
    "vt",
    { length: 4096, samples: 10, seed: 7, modelTemplate: "meta-llama3", removeNewlineTab: true },
    "244151dc00ee6587117a28f137b6efb9d00c9dba5e4293fa2bab68b57e5f7c41",
  ],
  [
    "cwe",
    { length: 2048, samples: 11, seed: 3, modelTemplate: "Phi3", chunkIndex: 1, chunkAmount: 2 },
    "34eab9ad405946c499288422fef0eab2ea14aa23abdb19cda17a5a40de24d72b",
  ],
  [
    "qa_1",
    { length: 4096, samples: 10, seed: 42, modelTemplate: "vicuna-chat", chunkIndex: 2, chunkAmount: 3 },
    "ef3356e44f7fe94c23640fe8482a0ea31b7e9f8a349f018a5a57ee4831f28791",
  ],
  [
    "fwe",
    { length: 3000, samples: 10, seed: 5, modelTemplate: "RWKV", prepareForNs: true },
    "b4e7207eedaf1075b887f0069ec9b9153223cf67088ed13c627ce25c7b765e6d",
  ],
  [
    "vt",
    { length: 2048, samples: 10, seed: 5, modelTemplate: "jamba", prepareForNs: true },
    "a4d79e943147183833a9ed676998b547438843d789be710c5c260df38dba6c53",
  ],
  [
    "niah_multiquery",
    { length: 2048, samples: 10, seed: 123, modelTemplate: "lwm-chat", removeNewlineTab: true },
    "a3a58f5fbd2b8f5e4f084140206c66440484de873807c55535fd03f4d6b5c434",
  ],
  [
    "niah_single_1",
    { length: 1024, samples: 10, seed: 9, modelTemplate: "lwm-chat", prepareForNs: true },
    "6245ff1ef3c623d151d89d67097baffd06f9f9a9060af65b42add4df3a6883df",
  ],
  [
    "niah_single_2",
    { length: 1024, samples: 20, seed: 11, modelTemplate: "command-r-chat" },
    "55bf9293fd4778bc7647524473190ed142ca96cde59aaccd3b085f4d7230890a",
  ],
  [
    "qa_2",
    { length: 8192, samples: 10, seed: 42, modelTemplate: "nemotron5-instruct", removeNewlineTab: true },
    "3c0a4931c988e54f878fb6455011adc69d6f4b47ff8ea6bdb5c90ed2bfec5b48",
  ],
  [
    "cwe",
    { length: 8192, samples: 5, seed: 1, modelTemplate: "meta-chat", removeNewlineTab: true },
    "41af174c9d2cbf803de2e37b9a785b173f58bf149725cb2f3987f523dac309ff",
  ],
  [
    "fwe",
    { length: 4096, samples: 5, seed: 4294967295, modelTemplate: "chatglm-chat" },
    "6d3055d583c28a73ced3d99c17c1a75c87231afd4633f465dc53ba29b2e90fbb",
  ],
  [
    "niah_multikey_3",
    { length: 600, samples: 30, seed: 42, modelTemplate: "base" },
    "273fa8bad39f476771a2b87c7336038c8873624ee9949f676e6ca77bc58caf66",
  ],
];

describe.skipIf(!hasGolden)("RULER data with other options equals upstream's bytes", () => {
  const data = hasGolden ? openHaystacks({ data: fileURLToPath(dataRoot) }) : openHaystacks();
  it.each(RECORDED)("%s %j", async (name, options, sha256) => {
    const counter = await selectTokenizer("cl100k_base");
    const hash = createHash("sha256");
    for (const row of generateRows(selectTasks(name)[0]!, { counter, data, ...options }))
      hash.update(rowLine(row));
    expect(hash.digest("hex")).toBe(sha256);
  });
});
