// SPDX-License-Identifier: Apache-2.0
// `inspect`: what is in a model: family, layers, sites, dtypes, sizes, tokenizer, template.

import type { Command } from "commander";
import type { ArchiveMetadata } from "../../model/convert.ts";
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
    .description("Say what a model is: family, layers, sites, dtypes, sizes, tokenizer, template, source.")
    .argument("[model]", "the same as --model")
    .option("--sites", "list every site that can be steered or captured, with its module and class")
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
  // A stranger's archive says nothing of itself.
  const told = info.metadata as Partial<ArchiveMetadata>;
  const eos = info.eosIds.map((id) => `${id} ${tokenizer?.tokenOf(id) ?? ""}`.trim()).join(", ");
  const heads = told.heads ? `, ${told.heads} heads of ${told.headDim}, ${told.kvHeads} for keys` : "";
  const rows: [string, string][] = [
    ["name", info.name],
    ["archive", `${info.path} (${info.kind === "own" ? "our own" : "a stranger's"})`],
    ...sourceRows(told.source),
    ["family", info.family ? `${info.family} (${told.architecture ?? "?"})` : "not known"],
    ["layers", `${info.layers} at ${info.layersPath}${heads}`],
    ["a layer returns", info.layerOutput === "hidden" ? "the hidden state" : "(delta, residual)"],
    ["hidden size", String(info.hiddenSize)],
    ["vocabulary", String(info.vocabSize)],
    ["context", info.contextLength > 0 ? `${info.contextLength} tokens` : "not known"],
    ["keys and values", info.cached ? "cached" : "none: the prefix is computed again at each token"],
    ["stored weights", storedWeights(told.weights)],
    ...(told.stored ? [["converted as", storedAs(told.stored)] as [string, string]] : []),
    [
      "loaded as",
      `${info.dtype}, ${quantizedAs(info.quantize, told.weights)}${info.activations === "int16" ? " times int16 activations" : ""}, on ${info.device}, ${info.threads} threads`,
    ],
    ["memory", `${bytesText(memory.weightBytes)} weights, ${bytesText(memory.cacheBytes)} cache`],
    ["weight hash", info.weightHash],
    ["tokenizer", tokenizer ? `${tokenizer.size} tokens, ends at ${eos || "nothing"}` : "none"],
    ["chat template", tokenizer?.chatTemplate ? `${tokenizer.chatTemplate.length} characters` : "none"],
    ["sites", `${model.sites.length} (--sites lists them)`],
  ];
  const widest = Math.max(...rows.map(([key]) => key.length));
  for (const [key, value] of rows)
    printLine(`${styled(process.stdout, "bold", key.padEnd(widest))}  ${value}`);
  if (flags.sites) {
    const classes = new Map(model.moduleTree().map(({ path, type }) => [path, type]));
    const sites = model.sites.map(({ name, width, path }) => [
      name,
      String(width),
      path,
      classes.get(path) ?? "",
    ]);
    printLine();
    printLine(table([["site", "width", "module", "class"], ...sites]));
  }
  if (flags.tree) {
    printLine();
    printLine(table([["module", "class"], ...model.moduleTree().map((m) => [m.path || "(root)", m.type])]));
  }
}

function sourceRows(source: ArchiveMetadata["source"] | undefined): [string, string][] {
  if (!source) return [];
  const { repository, revision, files, format } = source;
  const from: [string, string][] = repository ? [["from", `${repository} at ${revision ?? "?"}`]] : [];
  return [
    ...from,
    ...files.map(({ name, bytes, sha256 }): [string, string] => [
      "source",
      `${name} (${format}, ${bytesText(bytes)}, sha256 ${sha256 ?? "not known"})`,
    ]),
  ];
}

/** "162.8 M numbers in 210 x Q4_1, 61 x F32"; a head that shares the embedding's weights counts too. */
function storedWeights(weights: ArchiveMetadata["weights"] | undefined): string {
  const all = Object.values(weights ?? {});
  if (all.length === 0) return "not known";
  const counts = new Map<string, number>();
  for (const { type } of all) counts.set(type, (counts.get(type) ?? 0) + 1);
  const numbers = all.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
  const scale =
    numbers >= 1e9 ? ([1e9, "G"] as const) : numbers >= 1e6 ? ([1e6, "M"] as const) : ([1e3, "k"] as const);
  const types = [...counts].map(([type, count]) => `${count} x ${type}`).join(", ");
  return `${(numbers / scale[0]).toFixed(1)} ${scale[1]} numbers in ${types}`;
}

/** "bfloat16", "int8", "int8 beside bfloat16": what was asked for at conversion. */
function storedAs({ dtype, quantize }: NonNullable<ArchiveMetadata["stored"]>): string {
  if (quantize === "none") return dtype;
  return dtype === "auto" ? quantize : `${quantize} beside ${dtype}`;
}

function quantizedAs(
  quantize: SteerModel["info"]["quantize"],
  weights: ArchiveMetadata["weights"] = {},
): string {
  if (quantize === "int8" || quantize === "int4") return `matrices ${quantize}`;
  const blocks = Object.values(weights).some(({ type }) => !["F32", "F16", "BF16"].includes(type));
  return quantize === "stored" && blocks ? "quantised matrices as they are stored" : "not quantised";
}
