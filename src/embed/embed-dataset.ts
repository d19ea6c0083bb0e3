// SPDX-License-Identifier: Apache-2.0
// The public door of the pipeline. What stands behind it (readers, Parquet, the hub client) is loaded on
// the first call, not with the package.

import type { EmbedConfig } from "./config.ts";
import type { EmbedOptions, EmbedResult } from "./run.ts";

/**
 * Embeds a data set into Parquet shards, with a manifest, a run summary and a journal from which a run
 * that was killed goes on (`resume: true`).
 *
 * @throws TypeError / RangeError for a mistake in a setting; DataError, ModelError, EnvironmentError,
 *   DeviceError, ServiceError by cause; SteerError ERR_STAGE_DIED when a process was killed;
 *   signal.reason. Whatever ends a run, the shards in its journal stay.
 */
export async function embedDataset(config: EmbedConfig, options: EmbedOptions = {}): Promise<EmbedResult> {
  const run = await import("./run.ts");
  return run.embedDataset(config, options);
}
