// SPDX-License-Identifier: Apache-2.0
// One family against its reference: a checkpoint with golden.safetensors beside it is converted and run as
// the reference was run. Used by scripts/parity.mjs and by tests/native/parity-families.test.ts.
import { join } from "node:path";

const CASES = ["plain", "add", "cap", "ablate", "ordered", "reversed"];
const GREEDY_PROMPT = 8;

/** The reference's programs; `mid` and `late` are layers. */
function programs(vector, capDirection, ablateDirection, mid, late) {
  const add = (layer) => ({ layer, op: "add", vector, scale: 2 });
  const cap = { layer: mid, op: "cap", vector: capDirection, min: -0.5, max: 0.25 };
  const ablate = { layer: mid, op: "ablate", vector: ablateDirection };
  return {
    plain: [],
    add: [add(mid)],
    cap: [cap],
    ablate: [ablate],
    ordered: [add(mid), cap, ablate, add(late)],
    reversed: [ablate, cap, add(mid), add(late)],
  };
}

function largestDifference(got, expected) {
  if (got.length !== expected.length)
    throw new Error(`expected ${expected.length} values, got ${got.length}`);
  let worst = 0;
  for (let i = 0; i < got.length; i++) {
    const difference = Math.abs(got[i] - expected[i]);
    if (!(difference <= worst)) worst = difference;
  }
  return worst;
}

/**
 * Largest |delta| of logits and hidden states, plain and steered (every case the golden file has), and how
 * many of its greedy tokens are equal. `api` = { convert, SteerModel, readSafetensors, toFloat32, toIntegers }.
 */
export async function measureFamily(api, { folder, mid, late }, archive) {
  const { tensors } = api.readSafetensors(join(folder, "golden.safetensors"));
  const floats = (name) => api.toFloat32(tensors.get(name));
  const integers = (name) => api.toIntegers(tensors.get(name));
  const metadata = await api.convert(folder, archive);
  const { layers, hiddenSize, vocabSize } = metadata;
  const steering = programs(floats("vector"), floats("cap_direction"), floats("ablate_direction"), mid, late);
  const [batch, length] = tensors.get("input_ids").shape;
  const ids = integers("input_ids");
  const model = await api.SteerModel.load(archive, { device: "cpu", dtype: "float32" });
  const found = { metadata, logits: 0, hidden: 0, steeredLogits: 0, steeredHidden: 0, greedy: {}, cases: [] };
  try {
    for (const name of CASES) {
      if (!tensors.has(`${name}.logits`)) continue;
      found.cases.push(name);
      const [logits, hidden] = [floats(`${name}.logits`), floats(`${name}.hidden`)];
      for (let row = 0; row < batch; row++) {
        const result = await model.forward(Int32Array.from(ids.slice(row * length, (row + 1) * length)), {
          steering: steering[name],
          capture: { sites: Array.from({ length: layers }, (_, layer) => `layers.${layer}`) },
          logits: "all",
        });
        const size = length * vocabSize;
        const logit = largestDifference(result.logits, logits.subarray(row * size, (row + 1) * size));
        let state = 0;
        for (let layer = 0; layer < layers; layer++) {
          const start = (layer * batch + row) * length * hiddenSize;
          const expected = hidden.subarray(start, start + length * hiddenSize);
          state = Math.max(state, largestDifference(result.captures[`layers.${layer}`].data, expected));
        }
        const [a, b] = name === "plain" ? ["logits", "hidden"] : ["steeredLogits", "steeredHidden"];
        found[a] = Math.max(found[a], logit);
        found[b] = Math.max(found[b], state);
      }
      if (!tensors.has(`${name}.greedy`)) continue;
      const expected = integers(`${name}.greedy`);
      const { tokens } = await model.generate(Int32Array.from(expected.slice(0, GREEDY_PROMPT)), {
        maxTokens: expected.length - GREEDY_PROMPT,
        ignoreEos: true,
        steering: steering[name],
      });
      const differs = Array.from(tokens).findIndex((id, i) => id !== expected[GREEDY_PROMPT + i]);
      found.greedy[name] = {
        of: expected.length - GREEDY_PROMPT,
        equal: differs < 0 ? tokens.length : differs,
      };
    }
    return found;
  } finally {
    await model.dispose();
  }
}
