// SPDX-License-Identifier: Apache-2.0
// A data set by what --dataset says: files here, or a name on the hub.

import { hubSource } from "./hub.ts";
import { isLocal, localName, localSource } from "./local.ts";
import type { RetryOptions } from "./retry.ts";
import type { DataSource } from "./source.ts";

export interface DatasetRequest {
  dataset: string;
  subset: string | null;
  split: string;
  revision: string;
  /** Where hub files and file hashes are kept. */
  cacheFolder: string;
  retry?: Partial<RetryOptions>;
}

/** Opens the source; reads the listing, not the rows. */
export async function openDataset(request: DatasetRequest): Promise<DataSource> {
  if (await isLocal(request.dataset)) return localSource(request.dataset, request);
  return hubSource(request.dataset, request);
}

/** The name a data set has in paths and manifests. */
export async function datasetName(dataset: string): Promise<string> {
  return (await isLocal(dataset)) ? localName(dataset) : dataset;
}
