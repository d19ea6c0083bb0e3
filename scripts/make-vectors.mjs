#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
// Makes the vectors in models/vectors from the emotion statements of RepE (Zou et al. 2023): at every
// layer the mean state at the last token of some texts minus that of others (difference of means).
//
//   node scripts/make-vectors.mjs [--model NAME] [--data FOLDER] [--output FOLDER]
import fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { SteeringVector, SteerModel } from "../dist/index.js";

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "..");
const { values } = parseArgs({
  options: {
    model: { type: "string", default: "smollm2-135m-instruct" },
    data: { type: "string", default: path.join(root, "../shared/data/repe/emotions") },
    output: { type: "string", default: path.join(root, "models/vectors") },
  },
});

const EMOTIONS = ["anger", "happiness", "sadness", "fear", "surprise", "disgust"];
const TOGETHER = 16;

/** The first statements of one emotion. */
function statements(emotion, count) {
  const all = JSON.parse(fs.readFileSync(path.join(values.data, `${emotion}.json`), "utf8"));
  return all.slice(0, count).map((text) => text.trim());
}

// No statements of the data are calm ones, so the second pair puts the same 96 in both voices.
const mixed = EMOTIONS.flatMap((emotion) => statements(emotion, 16));
const voiced = (mood) => mixed.map((text) => `${text} My voice is ${mood} as I say:`);

const VECTORS = [
  {
    name: "happy-sad",
    positive: statements("happiness", 64),
    negative: statements("sadness", 64),
    method:
      "mean last-token state of 64 happiness minus 64 sadness statements (RepE emotions), after each layer",
  },
  {
    name: "calm-angry",
    positive: voiced("calm"),
    negative: voiced("angry"),
    method:
      'mean last-token state of 96 statements (RepE, six emotions) + "My voice is calm as I say:" minus the same ' +
      "with angry, after each layer, scaled to the length of happy-sad at that layer",
    lengthOf: "happy-sad",
  },
];

/** Mean last-token state per layer, in float64. */
async function meanStates(model, texts) {
  const sites = Array.from({ length: model.info.layers }, (_, layer) => layer);
  const sums = sites.map(() => new Float64Array(model.info.hiddenSize));
  for (let from = 0; from < texts.length; from += TOGETHER) {
    const batch = texts.slice(from, from + TOGETHER);
    const results = await Promise.all(
      batch.map((text) => model.forward(text, { capture: { sites, pool: "last" }, logits: "none" })),
    );
    for (const { captures } of results)
      for (const layer of sites) {
        const { data } = captures[`layers.${layer}`];
        for (let i = 0; i < data.length; i++) sums[layer][i] += data[i] / texts.length;
      }
  }
  return sums;
}

const model = await SteerModel.load(values.model);
fs.mkdirSync(values.output, { recursive: true });
const made = new Map();
for (const { name, positive, negative, method, lengthOf } of VECTORS) {
  const [up, down] = [await meanStates(model, positive), await meanStates(model, negative)];
  const directions = new Map(
    up.map((row, layer) => {
      const difference = row.map((x, i) => x - down[layer][i]);
      const factor = lengthOf ? made.get(lengthOf).norm({ site: layer }) / Math.hypot(...difference) : 1;
      return [layer, difference.map((x) => x * factor)];
    }),
  );
  const vector = new SteeringVector({
    name: name.split("-")[0],
    directions,
    model: { name: model.info.name, weightHash: model.info.weightHash },
    method,
    notes: { data: "RepE emotions, MIT, github.com/andyzoujm/representation-engineering" },
  });
  made.set(name, vector);
  const file = path.join(values.output, `${name}.safetensors`);
  await vector.save(file);
  console.log(`${file}: ${vector.layers.length} layers, |v| at 16: ${vector.norm({ site: 16 }).toFixed(3)}`);
}
await model.dispose();
