// SPDX-License-Identifier: Apache-2.0
// `capture`: hidden states of texts, to a file.

import { extname } from "node:path";
import type { Command } from "commander";
import { Option } from "commander";
import { DataError } from "../../errors.ts";
import type { SteerModel } from "../../model/steer-model.ts";
import { UsageError } from "../exit-codes.ts";
import { readInput } from "../input.ts";
import { interruptible } from "../interrupt.ts";
import {
  addModelOptions,
  addSteeringOptions,
  collect,
  loadModel,
  type ModelFlags,
  positiveInteger,
  type SteeringFlags,
  steeringOf,
} from "../options.ts";
import { note, printJson, printLine, progressBar } from "../terminal.ts";

interface Flags extends ModelFlags, Omit<SteeringFlags, "layer" | "site"> {
  output: string;
  at: string[];
  field: string;
  pool: "none" | "mean" | "last" | "first";
  together: number;
  json?: boolean;
}

/** One text's rows at one site. */
interface Rows {
  text: number;
  positions: Int32Array;
  data: Float32Array;
}

export function register(program: Command): void {
  const command = program
    .command("capture")
    .description("Write hidden states of texts to a .safetensors or .npy file.")
    .argument(
      "[input]",
      "text file (one text a line) or .jsonl (objects with a text field); - = standard input",
      "-",
    )
    .requiredOption("-o, --output <file>", "file to write: .safetensors, or .npy for a single site")
    .requiredOption("-a, --at <site>", "layer number or site to read (repeatable)", collect);
  addSteeringOptions(addModelOptions(command))
    .option("--field <name>", "field of the JSON objects that holds the text", "text")
    .addOption(
      new Option("--pool <how>", "one row a text over its tokens, or every row")
        .choices(["none", "mean", "last", "first"])
        .default("none"),
    )
    .option("--together <n>", "texts that run at once", positiveInteger, 32)
    .option("--json", "print what was written as JSON")
    .addHelpText(
      "after",
      `
Examples:
  $ chatspace-steer capture prompts.txt -o states.safetensors --at 8 --at 16
  $ chatspace-steer capture data.jsonl --field question -o last.npy --at -1 --pool last
  $ chatspace-steer capture prompts.txt -o steered.safetensors --at 20 --vector happy --layer 16

The .safetensors file holds one [rows, width] tensor a site, named by it, and int32 tensors "text" and
"position" that say which text and token each row is of.`,
    )
    .action((input: string, flags: Flags & SteeringFlags) =>
      interruptible((signal) => capture(input, flags, signal)),
    );
}

async function capture(input: string, flags: Flags & SteeringFlags, signal: AbortSignal): Promise<void> {
  const ending = extname(flags.output).toLowerCase();
  if (ending !== ".safetensors" && ending !== ".npy")
    throw new UsageError(`expected --output to end in .safetensors or .npy, got ${flags.output}`);
  const sites = flags.at.map((text) => (/^-?\d+$/.test(text) ? Number(text) : text));
  if (ending === ".npy" && sites.length > 1)
    throw new UsageError("expected one --at for a .npy file, got several (.safetensors holds several)");
  const texts = parseTexts(await readInput(input), input, flags.field);
  const steering = await steeringOf(flags);
  const model = await loadModel(flags, signal);
  try {
    const bySite = await readStates(model, texts, { sites, steering, flags, signal });
    const shapes = await writeStates(flags.output, ending, bySite, model);
    if (flags.json) printJson({ output: flags.output, model: model.info.name, texts: texts.length, shapes });
    else {
      printLine(flags.output);
      for (const [site, shape] of Object.entries(shapes)) note(`${site} [${shape.join(", ")}]`);
    }
  } finally {
    await model.dispose();
  }
}

async function readStates(
  model: SteerModel,
  texts: readonly string[],
  run: {
    sites: (number | string)[];
    steering: Awaited<ReturnType<typeof steeringOf>>;
    flags: Flags;
    signal: AbortSignal;
  },
): Promise<Map<string, Rows[]>> {
  const { sites, steering, flags, signal } = run;
  const bySite = new Map<string, Rows[]>();
  const bar = progressBar();
  let done = 0;
  for (let from = 0; from < texts.length; from += flags.together) {
    const batch = texts.slice(from, from + flags.together);
    const results = await Promise.all(
      batch.map((text) =>
        model.forward(text, { capture: { sites, pool: flags.pool }, steering, logits: "none", signal }),
      ),
    );
    results.forEach(({ captures }, index) => {
      for (const [site, { data, positions }] of Object.entries(captures)) {
        const rows = bySite.get(site) ?? [];
        rows.push({ text: from + index, positions, data });
        bySite.set(site, rows);
      }
    });
    done += batch.length;
    bar.onProgress({
      stage: "capture",
      name: `${done}/${texts.length} texts`,
      bytesDone: done,
      bytesTotal: texts.length,
    });
  }
  bar.end();
  return bySite;
}

async function writeStates(
  output: string,
  ending: string,
  bySite: ReadonlyMap<string, Rows[]>,
  model: SteerModel,
): Promise<Record<string, [number, number]>> {
  const { asBytes, float32Tensor, makeTensor } = await import("../../formats/tensor.ts");
  const { writeWhole } = await import("../../formats/write-whole.ts");
  const shapes: Record<string, [number, number]> = {};
  const tensors = new Map<string, ReturnType<typeof float32Tensor>>();
  for (const [site, parts] of bySite) {
    const rows = parts.reduce((sum, part) => sum + part.positions.length, 0);
    const width = model.sites.find((s) => s.name === site)?.width ?? 0;
    shapes[site] = [rows, width];
    tensors.set(
      site,
      float32Tensor(
        joined(
          parts.map((part) => part.data),
          Float32Array,
        ),
        [rows, width],
      ),
    );
    const text = joined(
      parts.map((part) => new Int32Array(part.positions.length).fill(part.text)),
      Int32Array,
    );
    const position = joined(
      parts.map((part) => part.positions),
      Int32Array,
    );
    tensors.set("text", makeTensor("I32", [rows], asBytes(text)));
    tensors.set("position", makeTensor("I32", [rows], asBytes(position)));
  }
  if (ending === ".npy") {
    const { writeNpy } = await import("../../formats/npy.ts");
    await writeWhole(output, writeNpy([...tensors.values()][0]!));
  } else {
    const { writeSafetensors } = await import("../../formats/safetensors.ts");
    const metadata = { format: "chatspace-capture", version: "1", base_model: model.info.name };
    await writeWhole(output, writeSafetensors(tensors, { ...metadata, weight_hash: model.info.weightHash }));
  }
  return shapes;
}

function joined<T extends Float32Array | Int32Array>(
  parts: readonly T[],
  kind: new (length: number) => T,
): T {
  const all = new kind(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** Lines of text, or the field of JSON lines when the first line is an object. */
function parseTexts(content: string, name: string, field: string): string[] {
  const lines = content.split(/\r?\n/).filter((line) => line.trim() !== "");
  if (lines.length === 0)
    throw new DataError("ERR_INPUT_EMPTY", `${name}: expected at least one text, got none`);
  if (!lines[0]!.trimStart().startsWith("{")) return lines;
  return lines.map((line, index) => {
    const where = `${name}, line ${index + 1}`;
    let record: Record<string, unknown>;
    try {
      record = JSON.parse(line) as Record<string, unknown>;
    } catch (cause) {
      throw new DataError(
        "ERR_INPUT_FORMAT",
        `${where}: expected a JSON object, got ${(cause as Error).message}`,
        { cause },
      );
    }
    const text = record[field];
    if (typeof text === "string" && text !== "") return text;
    throw new DataError(
      "ERR_INPUT_FORMAT",
      `${where}: expected text in the field "${field}", got ${Object.keys(record).join(", ")}`,
      {
        details: { where, field, fields: Object.keys(record) },
        remedies: ["name the field with --field"],
      },
    );
  });
}
