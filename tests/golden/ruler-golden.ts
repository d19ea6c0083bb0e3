// SPDX-License-Identifier: Apache-2.0
// Where the recorded RULER references lie; absent in a bare clone, and then the tests that need them skip.
import { existsSync, readFileSync } from "node:fs";

export const goldenRoot = new URL("../../../shared/golden/ruler/", import.meta.url);
export const dataRoot = new URL("../../../shared/data/ruler/", import.meta.url);
export const hasGolden = existsSync(goldenRoot) && existsSync(dataRoot);

export function goldenText(path: string): string {
  return readFileSync(new URL(path, goldenRoot), "utf8");
}

export function goldenJson(path: string): unknown {
  return JSON.parse(goldenText(path));
}
