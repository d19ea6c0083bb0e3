// SPDX-License-Identifier: Apache-2.0
// Page compressors. One zstd for every machine and Node version (WebAssembly), so that the same rows
// give the same bytes wherever a shard is written.

import { gzipSync } from "node:zlib";
import { compress, init } from "@bokuweb/zstd-wasm";
import { misuse } from "../../errors.ts";

export type Compression = "zstd" | "gzip" | "none";

export const COMPRESSIONS: readonly Compression[] = ["zstd", "gzip", "none"];

/** Parquet's codec number and the function that compresses one page. */
export interface PageCodec {
  readonly name: Compression;
  readonly parquetCodec: number;
  compress(page: Uint8Array): Uint8Array;
}

const ZSTD_LEVEL = 3;
let zstdReady: Promise<void> | null = null;

/** Loads the compressor asked for. */
export async function pageCodec(name: Compression): Promise<PageCodec> {
  switch (name) {
    case "none":
      return { name, parquetCodec: 0, compress: (page) => page };
    case "gzip":
      return { name, parquetCodec: 2, compress: (page) => gzipSync(page) };
    case "zstd":
      zstdReady ??= init();
      await zstdReady;
      return { name, parquetCodec: 6, compress: (page) => compress(page, ZSTD_LEVEL) };
    default:
      throw misuse(RangeError, "ERR_OPTION_COMPRESSION", "compression", COMPRESSIONS.join(", "), name);
  }
}

/** zstd of a whole buffer, for files that are not Parquet. */
export async function zstdCompress(bytes: Uint8Array): Promise<Uint8Array> {
  zstdReady ??= init();
  await zstdReady;
  return compress(bytes, ZSTD_LEVEL);
}
