// SPDX-License-Identifier: Apache-2.0
// Conversations to prompts: the text of the references, and where each message lies in the tokens.
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, test } from "vitest";
import { prepareChat } from "../../src/model/chat.ts";
import { type ChatMessage, ChatTemplate, checkMessages } from "../../src/model/chat-template.ts";
import { loadTokenizer } from "../../src/model/load-tokenizer.ts";
import type { Tokenizer } from "../../src/model/tokenizer.ts";

const shared = (path: string) => fileURLToPath(new URL(`../../../shared/${path}`, import.meta.url));
const here = existsSync(shared("models/tokenizers/qwen3"));
// SmolLM2's template, as in its tokenizer_config.json.
const SMOLLM2 =
  "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
const TALK: ChatMessage[] = [
  { role: "system", content: "You answer briefly." },
  { role: "user", content: "What is the capital of France?" },
  { role: "assistant", content: "Paris." },
  { role: "user", content: "And of Italy?" },
];

describe.skipIf(!here)("templates (../shared is absent)", () => {
  let tokenizer: Tokenizer;
  beforeAll(async () => {
    tokenizer = await loadTokenizer(shared("models/tokenizers/qwen3"));
  });

  test("the prompts of the smollm2 golden run", () => {
    const golden = JSON.parse(readFileSync(shared("golden/smollm2/smollm2.json"), "utf8")) as {
      prompts: { input: string | ChatMessage[]; text: string }[];
    };
    const template = new ChatTemplate(tokenizer, SMOLLM2);
    const chats = golden.prompts.filter((prompt) => typeof prompt.input !== "string");
    expect(chats.length).toBeGreaterThan(0);
    for (const { input, text } of chats) expect(template.render(input as ChatMessage[])).toBe(text);
  });

  test("boundaries tile the prompt and hold their message", () => {
    const { tokens, boundaries } = prepareChat(tokenizer, TALK, { template: SMOLLM2 });
    let end = 0;
    for (const { role, content, startToken, endToken } of boundaries) {
      expect(startToken).toBe(end);
      const text = tokenizer.decode(tokens.subarray(startToken, endToken), { skipSpecialTokens: false });
      expect(text).toBe(`<|im_start|>${role}\n${content}<|im_end|>\n`);
      end = endToken;
    }
    const rest = tokenizer.decode(tokens.subarray(end), { skipSpecialTokens: false });
    expect(rest).toBe("<|im_start|>assistant\n");
  });

  test("prefill goes on from the assistant's header", () => {
    const { tokens, prefill } = prepareChat(tokenizer, TALK, { template: SMOLLM2, prefill: "Rome, of" });
    expect(prefill).toBe("Rome, of");
    const text = tokenizer.decode(tokens, { skipSpecialTokens: false });
    expect(text.endsWith("<|im_start|>assistant\nRome, of")).toBe(true);
  });

  test("a template that refuses the first message alone gives its tokens to the next", () => {
    const strict = `{% if messages|length < 2 %}{{ raise_exception('too short') }}{% endif %}${SMOLLM2}`;
    const { boundaries } = prepareChat(tokenizer, TALK, { template: strict });
    expect(boundaries[0]).toMatchObject({ startToken: 0, endToken: 0 });
    expect(boundaries[1]!.startToken).toBe(0);
    expect(boundaries[1]!.endToken).toBeGreaterThan(10);
  });

  test("variables reach the template, and the model's own does what it says", () => {
    const template = new ChatTemplate(tokenizer, "{{ mood }}{{ eos_token }}{{ strftime_now('%Y') }}");
    const text = template.render(TALK, { variables: { mood: "calm" } });
    expect(text).toBe(`calm${tokenizer.eosToken}${new Date().getFullYear()}`);
  });

  test("no template, a broken one, a refusing one", () => {
    const code = (run: () => unknown) => {
      try {
        run();
      } catch (error) {
        return (error as { code: string }).code;
      }
      return "nothing thrown";
    };
    expect(code(() => new ChatTemplate(tokenizer, undefined))).toBe(
      tokenizer.chatTemplate ? "nothing thrown" : "ERR_TEMPLATE_MISSING",
    );
    expect(code(() => new ChatTemplate(tokenizer, "{% if %}"))).toBe("ERR_TEMPLATE");
    const refusing = new ChatTemplate(tokenizer, "{{ raise_exception('no') }}");
    expect(code(() => refusing.render(TALK))).toBe("ERR_TEMPLATE");
  });
});

test("what is no conversation is refused", () => {
  for (const value of [[], "hello", [{ role: "user" }], [{ role: 1, content: "x" }], [null]])
    expect(() => checkMessages("messages", value)).toThrow(expect.objectContaining({ code: "ERR_MESSAGES" }));
});
