// SPDX-License-Identifier: Apache-2.0
// `inspect`: what is in a model: family, layers, sites, dtypes, sizes, tokenizer, template.

import type { Command } from "commander";
import type { SteerModel } from "../../model/steer-model.ts";
import { interruptible } from "../interrupt.ts";
import { addModelOptions, loadModel, type ModelFlags } from "../options.ts";
import { bytesText, printJson, printLine, styled, table } from "../terminal.ts";

interface Flags extends ModelFlags {
  sites?: boolean;
  tree?: boolean;
  json?: boolean;
}

export function register(program: Command): void {
  addModelOptions(program.command("inspect"))
    .description("Say what a model is: family, layers, sites, dtypes, sizes, tokenizer, chat template.")
    .argument("[model]", "the same as --model")
    .option("--sites", "list every site that can be steered or captured")
    .option("--tree", "list every submodule with its class")
    .option("--json", "print everything as JSON")
    .addHelpText(
      "after",
      `
Examples:
  $ chatspace-steer inspect stories260k
  $ chatspace-steer inspect smollm2.pt --sites
  $ chatspace-steer inspect someones-traced-model.pt --tree --json`,
    )
    .action((name: string | undefined, flags: Flags) =>
      interruptible(async (signal) => {
        const model = await loadModel(name === undefined ? flags : { ...flags, model: name }, signal);
        try {
          if (flags.json) printJson(everything(model));
          else show(model, flags);
        } finally {
          await model.dispose();
        }
      }),
    );
}

function everything(model: SteerModel) {
  const { tokenizer } = model;
  return {
    ...model.info,
    sites: model.sites,
    tree: model.moduleTree(),
    tokenizer: tokenizer
      ? {
          size: tokenizer.size,
          bosToken: tokenizer.bosToken ?? null,
          eosToken: tokenizer.eosToken ?? null,
          chatTemplate: tokenizer.chatTemplate ?? null,
        }
      : null,
    memory: model.memoryUsage(),
  };
}

function show(model: SteerModel, flags: Flags): void {
  const { info, tokenizer } = model;
  const memory = model.memoryUsage();
  const eos = info.eosIds.map((id) => `${id} ${tokenizer?.tokenOf(id) ?? ""}`.trim()).join(", ");
  const rows: [string, string][] = [
    ["name", info.name],
    ["archive", `${info.path} (${info.kind === "own" ? "our own" : "a stranger's"})`],
    ["family", info.family || "not known"],
    ["layers", `${info.layers} at ${info.layersPath}`],
    ["a layer returns", info.layerOutput === "hidden" ? "the hidden state" : "(delta, residual)"],
    ["hidden size", String(info.hiddenSize)],
    ["vocabulary", String(info.vocabSize)],
    ["context", info.contextLength > 0 ? `${info.contextLength} tokens` : "not known"],
    ["keys and values", info.cached ? "cached" : "none: the prefix is computed again at each token"],
    ["device", `${info.device}, ${info.dtype}, ${info.threads} threads`],
    ["memory", `${bytesText(memory.weightBytes)} weights, ${bytesText(memory.cacheBytes)} cache`],
    ["weight hash", info.weightHash.slice(0, 16)],
    ["tokenizer", tokenizer ? `${tokenizer.size} tokens, ends at ${eos || "nothing"}` : "none"],
    ["chat template", tokenizer?.chatTemplate ? `${tokenizer.chatTemplate.length} characters` : "none"],
    ["sites", `${model.sites.length} (--sites lists them)`],
  ];
  const widest = Math.max(...rows.map(([key]) => key.length));
  for (const [key, value] of rows)
    printLine(`${styled(process.stdout, "bold", key.padEnd(widest))}  ${value}`);
  if (flags.sites) {
    printLine();
    printLine(
      table([["site", "width", "module"], ...model.sites.map((s) => [s.name, String(s.width), s.path])]),
    );
  }
  if (flags.tree) {
    printLine();
    printLine(table([["module", "class"], ...model.moduleTree().map((m) => [m.path || "(root)", m.type])]));
  }
}
