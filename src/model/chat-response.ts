// SPDX-License-Identifier: Apache-2.0
// The answer of a conversation: what was put into the assistant's mouth, what it said, and where every
// message lies in the tokens, so that captures can be cut by message.

import type { ChatMessage, MessageBoundary } from "./chat-template.ts";
import type { Capture, GenerateResult } from "./results.ts";

export interface ChatResponse extends GenerateResult {
  /** The beginning of the answer that was given; "" without one. */
  prefill: string;
  /** What the model added; same as `text`. */
  generated: string;
  /** prefill + generated. */
  fullText: string;
  /**
   * The messages given, then the answer: its tokens from the template's header (or the prefill) to the end
   * of what was generated. Ranges [startToken, endToken) of the whole sequence.
   */
  boundaries: MessageBoundary[];
  /** The answer as a message, to be appended to the conversation. */
  toMessage(): ChatMessage;
}

export function chatResponse(
  result: GenerateResult,
  prefill: string,
  messages: readonly MessageBoundary[],
): ChatResponse {
  const fullText = prefill + result.text;
  const toMessage = (): ChatMessage => ({ role: "assistant", content: fullText });
  const answer: MessageBoundary = {
    ...toMessage(),
    startToken: messages.at(-1)?.endToken ?? 0,
    endToken: result.promptTokens.length + result.tokens.length,
  };
  return {
    ...result,
    prefill,
    generated: result.text,
    fullText,
    boundaries: [...messages, answer],
    toMessage,
  };
}

/** The rows of a capture that belong to one message; a view, nothing is copied. */
export function captureOfMessage(capture: Capture, boundary: MessageBoundary): Capture {
  const { positions, data, shape } = capture;
  let from = 0;
  while (from < positions.length && positions[from]! < boundary.startToken) from++;
  let to = from;
  while (to < positions.length && positions[to]! < boundary.endToken) to++;
  const width = shape[1];
  return {
    site: capture.site,
    data: data.subarray(from * width, to * width),
    shape: [to - from, width],
    positions: positions.subarray(from, to),
  };
}
