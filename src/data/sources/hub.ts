// SPDX-License-Identifier: Apache-2.0
// A data set on the hub as a source: files are fetched when the reader comes to them, the next one while
// one is read.

import { chooseFiles, readerOf } from "./formats.ts";
import { HubRepo } from "./hub-repo.ts";
import type { RetryOptions } from "./retry.ts";
import type { DataSource } from "./source.ts";

/** Lists a hub data set at a revision and chooses the files of its subset and split. */
export async function hubSource(
  name: string,
  wanted: {
    subset: string | null;
    split: string;
    revision: string;
    cacheFolder: string;
    retry?: Partial<RetryOptions>;
  },
): Promise<DataSource> {
  const repo = await HubRepo.open({
    type: "dataset",
    name,
    revision: wanted.revision,
    cacheFolder: wanted.cacheFolder,
    ...(wanted.retry ? { retry: wanted.retry } : {}),
  });
  const { format, files } = chooseFiles(
    repo.files.map((file) => file.path),
    { subset: wanted.subset, split: wanted.split, where: `${name} at ${repo.commit.slice(0, 12)}` },
  );
  const fetches = new Map<number, Promise<string>>();
  const fetchOnce = (index: number): Promise<string> => {
    let running = fetches.get(index);
    if (running === undefined) {
      running = repo.fetchFile(files[index] as string);
      // A failed prefetch is reported when the file is opened, and tried again then.
      running.catch(() => fetches.delete(index));
      fetches.set(index, running);
    }
    return running;
  };
  return {
    kind: "hub",
    format,
    revision: repo.commit,
    async files() {
      return files.map((path) => {
        const file = repo.files.find((candidate) => candidate.path === path);
        return { name: path, bytes: file?.bytes ?? 0, sha256: file?.hash ?? "" };
      });
    },
    async open(index) {
      const path = await fetchOnce(index);
      if (index + 1 < files.length) void fetchOnce(index + 1).catch(() => undefined);
      return readerOf(format, path, files[index] as string);
    },
  };
}
