import { inspectLibtorch } from "./libtorch-folder.mjs";
import path from "node:path";
export async function ensureLibtorch({ root, libtorch }) {
  const d = path.resolve(libtorch ?? process.env.CHATSPACE_LIBTORCH ?? path.join(root, "vendor/libtorch"));
  const f = inspectLibtorch(d);
  if (f.problem) throw new Error(`${d}: ${f.problem}`);
  return f;
}
