// SPDX-License-Identifier: Apache-2.0
// The same work for both sides: prompts of random ordinary tokens, greedy tokens after them.
export function prompts(batch, length, vocab, seed = 1) {
  let state = seed;
  const next = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return 3 + (state % Math.min(vocab - 3, 20_000));
  };
  return Array.from({ length: batch }, () => Array.from({ length }, next));
}

// Tokens/s of prefill and decode of our engine for one batch.
export async function runOurs(model, { tokens, steps, layers }) {
  const vector = new Float32Array(model.info.hiddenSize).fill(0.01);
  const steering = layers.map((layer) => ({ layer, op: "add", vector }));
  const options = { steering, ignoreEos: true, temperature: 0 };
  const batch = tokens.map((ids) => Int32Array.from(ids));
  const begin = performance.now();
  await model.generate(batch, { ...options, maxTokens: 1 });
  const prompt = performance.now() - begin;
  const again = performance.now();
  await model.generate(batch, { ...options, maxTokens: steps });
  const whole = performance.now() - again;
  return rates(tokens, steps, prompt, whole - prompt);
}

export function rates(tokens, steps, promptMs, generateMs) {
  return {
    prefill: (tokens.length * tokens[0].length * 1000) / promptMs,
    decode: (tokens.length * (steps - 1) * 1000) / generateMs,
  };
}
