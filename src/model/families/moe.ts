// SPDX-License-Identifier: Apache-2.0
// Mixtures of experts on Llama's layers: Qwen 3 MoE and Mixtral.

import type { ArchiveBuilder } from "./builder.ts";
import type { ConfigReader } from "./config-reader.ts";
import { activationOf, type Family } from "./family.ts";
import { planLlamaLike, windowsOf } from "./llama.ts";

interface ExpertNames {
  router: string;
  gate: string;
  up: string;
  down: string;
}

const QWEN: ExpertNames = { router: "mlp.gate", gate: "gate_proj", up: "up_proj", down: "down_proj" };
const MIXTRAL: ExpertNames = { router: "block_sparse_moe.gate", gate: "w1", up: "w3", down: "w2" };

export const moe: Family = {
  modelTypes: ["qwen3_moe", "mixtral"],
  source: "moe",
  plan(config, build) {
    const isMixtral = config.string("model_type") === "mixtral";
    const names = isMixtral ? MIXTRAL : QWEN;
    const told = config.int("num_local_experts", config.int("num_experts", isMixtral ? 8 : 128));
    const experts = build.count(config, "num_local_experts", told);
    build.count(config, "num_hidden_layers", (config.int("num_hidden_layers") * experts) / 64);
    const bias = config.bool("attention_bias", false);
    const shape = planLlamaLike(config, build, {
      qkvBias: bias,
      outBias: bias,
      ...(isMixtral ? {} : { qkNorm: "head" as const }),
      window: windowsOf(config),
      mlp: (layer, path, from) => {
        if (!isMixtral && !isSparse(config, layer)) return false;
        addExperts(config, build, { path, from, names, experts, isMixtral });
        return true;
      },
    });
    return { ...shape, experts };
  },
};

function isSparse(config: ConfigReader, layer: number): boolean {
  const plain = config.list("mlp_only_layers") ?? [];
  return !plain.includes(layer) && (layer + 1) % config.int("decoder_sparse_step", 1) === 0;
}

function addExperts(
  config: ConfigReader,
  build: ArchiveBuilder,
  at: { path: string; from: string; names: ExpertNames; experts: number; isMixtral: boolean },
): void {
  const { path, from, names, experts, isMixtral } = at;
  const hidden = config.int("hidden_size");
  const inner = isMixtral ? config.int("intermediate_size") : config.int("moe_intermediate_size");
  const act = activationOf(config, "hidden_act", "silu");
  const block = `${from}.${names.router.split(".")[0]}`;
  for (let index = 0; index < experts; index++) {
    const expert = `${block}.experts.${index}`;
    build.module(`${path}.experts.${index}`, "Expert", { index, act }, [
      build.weight("gate", `${expert}.${names.gate}.weight`, [inner, hidden]),
      build.weight("up", `${expert}.${names.up}.weight`, [inner, hidden]),
      build.weight("down", `${expert}.${names.down}.weight`, [hidden, inner]),
    ]);
  }
  build.module(`${path}.experts`, "ExpertList", {}, []);
  const active = config.int("num_experts_per_tok");
  const normalize = isMixtral || config.bool("norm_topk_prob", false);
  build.module(path, "Experts", { active, normalize }, [
    build.weight("router", `${from}.${names.router}.weight`, [experts, hidden]),
  ]);
}
