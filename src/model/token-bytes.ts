// SPDX-License-Identifier: Apache-2.0
// The bytes each token stands for. Text is cut into tokens without regard to UTF-8, so everything that
// watches text grow (streaming, stop strings) has to work on bytes.

/** Token id i is bytes[offsets[i] .. offsets[i + 1]). */
export interface TokenBytes {
  bytes: Uint8Array;
  /** [vocabulary + 1]. */
  offsets: Int32Array;
}

/** How the tokens of a vocabulary are spelt. */
export type TokenSpelling =
  /** GPT-2's printable stand-ins for the 256 bytes. */
  | "byte-level"
  /** SentencePiece: U+2581 for a space, <0xAB> for a byte. */
  | "metaspace"
  /** Neither: each token is its own text. */
  | "plain";

/** The parts of tokenizer.json that decide the spelling. */
export interface DecoderConfig {
  type?: string;
  decoders?: DecoderConfig[];
  pattern?: { String?: string };
}

const META = "\u2581";

export function tokenSpelling(decoder: DecoderConfig | null | undefined): TokenSpelling {
  const parts = flatten(decoder);
  if (parts.some((part) => part.type === "ByteLevel")) return "byte-level";
  const meta = parts.some(
    (part) => part.type === "Metaspace" || (part.type === "Replace" && part.pattern?.String === META),
  );
  return meta ? "metaspace" : "plain";
}

/**
 * Bytes of every token id in [0, size).
 * @param token text of a vocabulary entry, or undefined for an id that is not used (no bytes)
 * @param literal entries whose text is meant literally (added tokens)
 */
export function tokenByteTable(
  size: number,
  token: (id: number) => string | undefined,
  literal: ReadonlySet<number>,
  spelling: TokenSpelling,
): TokenBytes {
  const encoder = new TextEncoder();
  const parts: Uint8Array[] = [];
  const offsets = new Int32Array(size + 1);
  let total = 0;
  for (let id = 0; id < size; id++) {
    const text = token(id) ?? "";
    const part = literal.has(id) ? encoder.encode(text) : spell(text, spelling, encoder);
    parts.push(part);
    total += part.length;
    offsets[id + 1] = total;
  }
  const bytes = new Uint8Array(total);
  parts.forEach((part, id) => {
    bytes.set(part, offsets[id]!);
  });
  return { bytes, offsets };
}

function spell(text: string, spelling: TokenSpelling, encoder: InstanceType<typeof TextEncoder>): Uint8Array {
  if (spelling === "byte-level") return byteLevel(text) ?? encoder.encode(text);
  if (spelling === "metaspace") {
    const single = /^<0x([0-9A-Fa-f]{2})>$/.exec(text);
    return single
      ? Uint8Array.of(Number.parseInt(single[1]!, 16))
      : encoder.encode(text.replaceAll(META, " "));
  }
  return encoder.encode(text);
}

function byteLevel(text: string): Uint8Array | undefined {
  const bytes: number[] = [];
  for (const character of text) {
    const byte = STAND_INS.get(character);
    if (byte === undefined) return undefined;
    bytes.push(byte);
  }
  return Uint8Array.from(bytes);
}

// GPT-2's table: printable Latin-1 stands for itself, the other bytes for code points from 256 on,
// in ascending order (Radford et al. 2019).
const STAND_INS: ReadonlyMap<string, number> = (() => {
  const map = new Map<string, number>();
  let next = 256;
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte !== 0xad);
    map.set(String.fromCodePoint(printable ? byte : next++), byte);
  }
  return map;
})();

function flatten(decoder: DecoderConfig | null | undefined): DecoderConfig[] {
  if (!decoder) return [];
  return [decoder, ...(decoder.decoders ?? []).flatMap(flatten)];
}
