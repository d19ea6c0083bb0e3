// SPDX-License-Identifier: Apache-2.0
// Whether this machine can run the GPU tests, and if not, why: a test that is skipped says its reason.
import fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

export const GPU = "cuda:0";

/** Why no CUDA device can be used here, or null. Asks the file system only: nothing is loaded. */
export function whyNoGpu(): string | null {
  const root = fileURLToPath(new URL("../../", import.meta.url));
  const devices = ["/dev/nvidiactl", "/dev/dxg"];
  if (!devices.some((device) => fs.existsSync(device))) return "no CUDA device on this machine";
  const library = process.env.CHATSPACE_CUDA ?? path.join(root, "build/cuda/chatspace_cuda.so");
  if (!fs.existsSync(library)) return `${path.relative(root, library)} is missing: npm run build:cuda`;
  return null;
}

/** Title suffix of a skipped suite, "" where it runs. */
export function skipNote(reason: string | null): string {
  return reason === null ? "" : ` (skipped: ${reason})`;
}
