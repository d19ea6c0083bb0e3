// SPDX-License-Identifier: Apache-2.0
// One environment of the engine against another, in two processes that live through the whole run: threads bound to
// cores against not (the default of --b), or two builds of the addon.
//
//   npm run bench:variants [-- --a NAME=VALUE,... --b CHATSPACE_PIN=1 --batch 1,8 --seconds 60 --ms 250
//                              --model NAME --dtype float32 --threads 2]
//   npm run bench:variants -- --a CHATSPACE_ADDON=before.node --b CHATSPACE_ADDON=after.node
//
// The two decode in turns, A B A B ..., --ms at a time; each turn is compared with the two beside it
// (lib/alternate.mjs), by the wall's clock and by the processor's. The first line has A in both processes' place: the
// noise, and what two processes of the same kind differ by. Both have to give the same tokens.
import { basename } from "node:path";
import { parseArgs } from "node:util";
import { loadAddon } from "../dist/native/loader.js";
import { cpuRatios, letters, STRETCH, samplesOf, wallRatios } from "./lib/alternate.mjs";
import { costText } from "./lib/paired.mjs";
import { Peer } from "./lib/peer.mjs";
import { publish } from "./lib/report.mjs";
import { gather } from "./lib/samples.mjs";
import { fixed, median } from "./lib/table.mjs";

const { values: args } = parseArgs({
  options: {
    a: { type: "string", default: "" },
    b: { type: "string", default: "CHATSPACE_PIN=1" },
    batch: { type: "string", default: "1,8" },
    seconds: { type: "string", default: "60" },
    ms: { type: "string", default: "250" },
    model: { type: "string", default: "smollm2-135m-instruct" },
    dtype: { type: "string", default: "float32" },
    threads: { type: "string" },
    save: { type: "boolean", default: false },
  },
});
/** Turns of a run. */
const CELLS = 9;
const HOW = { stretch: STRETCH };

const addon = loadAddon();
const threads = Number(args.threads ?? addon.machine().cores);
const environment = (text) =>
  Object.fromEntries(
    text
      .split(",")
      .filter(Boolean)
      .map((pair) => pair.split("=")),
  );
const shown = (text) =>
  Object.entries(environment(text))
    .map(([name, value]) => `${name}=${basename(value)}`)
    .join(" ") || "as it is";
const sides = { a: args.a, other: args.a, b: args.b };
const peers = {};
let seed = Date.now() & 0xffff;
try {
  for (const [side, env] of Object.entries(sides)) {
    peers[side] = new Peer(process.execPath, "our_decode.mjs", environment(env));
    await peers[side].ask({ do: "load", model: args.model, dtype: args.dtype, threads });
  }
  const rows = [];
  for (const batch of args.batch.split(",").map(Number)) rows.push(...(await measure(batch)));
  publish(
    {
      ...{ name: "variants", addon },
      lines: [
        `${basename(args.model)} ${args.dtype}, ${threads} threads, decode in turns of about ${args.ms} ms in processes that live through the run; A: ${shown(args.a)}; B: ${shown(args.b)}`,
      ],
      tables: [
        {
          header: ["case", "comparisons", "A tok/s", "B's time against A's", "of processor time"],
          rows,
        },
      ],
      notes: [
        "B's time: median of the ratios of each turn to those beside it and its 95 % bootstrap interval",
      ],
    },
    { save: args.save },
  );
} finally {
  for (const peer of Object.values(peers)) peer.close();
}

async function measure(batch) {
  const ask = (side, steps) => peers[side].ask({ do: "run", batch, steps });
  for (const side of Object.keys(peers)) await ask(side, 4);
  const { ms } = await ask("a", 8);
  const steps = Math.max(4, Math.round((8 * Number(args.ms)) / ms));
  const { tokens } = await ask("a", steps);
  const turns = (side) => async () => {
    const active = letters({ cells: CELLS, seed: seed++ });
    const each = [];
    for (const letter of active) {
      const answer = await ask(letter ? side : "a", steps);
      if (answer.tokens !== tokens)
        throw new Error(`batch ${batch}: ${letter ? side : "a"} gave other tokens`);
      each.push({ ...answer, us: {} });
    }
    return samplesOf(each, active, { lines: [] });
  };
  const have = {};
  const cases = {
    other: { run: turns("other"), length: CELLS - 2 },
    b: { run: turns("b"), length: CELLS - 2 },
  };
  await gather({ cases, have, seconds: Number(args.seconds) / args.batch.split(",").length });
  return Object.entries(have).map(([side, samples]) => [
    `batch ${batch}: ${side === "b" ? "B" : "A in two processes (noise)"}`,
    samples.length,
    fixed((batch * steps * 1000) / median(samples.map(({ a }) => a))),
    costText(wallRatios(samples), HOW),
    costText(cpuRatios(samples), HOW),
  ]);
}
