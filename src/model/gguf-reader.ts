// SPDX-License-Identifier: Apache-2.0
// Typed access to a GGUF file's metadata by the short keys of its architecture.

import { ModelError } from "../errors.ts";
import { openSource } from "../formats/byte-source.ts";
import { type GgufValue, readGgufTensor } from "../formats/gguf.ts";
import { toFloat32 } from "../formats/tensor.ts";
import type { GgufModel } from "./gguf-parts.ts";

/** Metadata of one architecture, by its short keys. */
export class GgufReader {
  readonly header: GgufModel;
  private readonly file: string;
  private readonly prefix: string;

  constructor(file: string, prefix: string, header: GgufModel) {
    this.file = file;
    this.prefix = prefix;
    this.header = header;
  }

  number(key: string): number {
    const value = this.optional(key);
    if (value !== undefined) return value;
    throw this.bad(key, "a number", undefined);
  }

  optional(key: string): number | undefined {
    const value = this.header.metadata.get(`${this.prefix}.${key}`);
    if (value === undefined || typeof value === "number") return value;
    // Some writers give a list with one value per layer; it has to be the same one.
    if (Array.isArray(value) && value.length > 0 && value.every((item) => item === value[0]))
      return Number(value[0]);
    throw this.bad(key, "one number", value);
  }

  text(key: string): string | undefined {
    const value = this.header.metadata.get(`${this.prefix}.${key}`);
    return typeof value === "string" ? value : undefined;
  }

  vocabSize(): number {
    const embedding = this.header.tensors.get("token_embd.weight");
    if (embedding) return embedding.shape[0]!;
    return this.number("vocab_size");
  }

  /** Values of a small float tensor, or null when there is none. */
  values(name: string): number[] | null {
    const entry = this.header.tensors.get(name);
    if (!entry) return null;
    const source = openSource(entry.file);
    try {
      return Array.from(toFloat32(readGgufTensor(source, entry)));
    } finally {
      source.close();
    }
  }

  private bad(key: string, expected: string, got: GgufValue | undefined): ModelError {
    const shown = got === undefined ? "nothing" : JSON.stringify(got)?.slice(0, 80);
    return new ModelError(
      "ERR_CONFIG",
      `${this.file}: ${this.prefix}.${key}: expected ${expected}, got ${shown}`,
      {
        details: { file: this.file, key, expected, got: shown },
        remedies: ["Get the file again, or convert from the model's Hugging Face folder."],
      },
    );
  }
}
