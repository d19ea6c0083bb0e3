// SPDX-License-Identifier: Apache-2.0
// Finds nvcc or gets one: a toolkit's whose major version is libtorch's, else NVIDIA's compiler wheels,
// put once into the user cache. The wheels compile and link without a GPU, a driver or a toolkit.
import fs from "node:fs";
import path from "node:path";
import { cacheRoot } from "./cache.mjs";
import { withLock } from "./lock.mjs";
import { findPip } from "./pip.mjs";
import { capture, run, say } from "./run.mjs";

/** Together they are a compiler; tried with libtorch built for the same CUDA major version. */
const WHEELS = {
  13: [
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-cuda-cccl==13.0.85",
    "nvidia-cuda-runtime==13.0.96",
  ],
};

/** What `nvcc` is, or why it cannot be used. */
async function inspectNvcc(nvcc) {
  const answer = await capture(nvcc, ["--version"], { timeoutMs: 20_000 });
  const version = /release (\d+\.\d+)/.exec(answer.stdout)?.[1];
  return version ? { nvcc, version } : { problem: answer.reason ?? "it does not say its version" };
}

/**
 * @param {object} wanted
 * @param {string} [wanted.nvcc] use this one
 * @param {number} wanted.major CUDA major version of libtorch
 * @param {boolean} [wanted.offline] download nothing
 * @returns {Promise<{ nvcc: string, version: string, source: string, runtime?: string }>}
 */
export async function ensureNvcc({ nvcc, major, offline = false, env = process.env }) {
  if (nvcc) {
    const found = await inspectNvcc(path.resolve(nvcc));
    if (found.problem) throw new Error(`${nvcc}: ${found.problem}`);
    return { ...found, source: "option" };
  }
  const reasons = [];
  for (const [source, candidate] of [
    ["CUDA_HOME", env.CUDA_HOME ? path.join(env.CUDA_HOME, "bin", "nvcc") : null],
    ["PATH", findOnPath("nvcc", env)],
    ["/usr/local/cuda", "/usr/local/cuda/bin/nvcc"],
  ]) {
    if (!candidate || !fs.existsSync(candidate)) continue;
    const found = await inspectNvcc(candidate);
    if (!found.problem && Number.parseInt(found.version, 10) === major) return { ...found, source };
    reasons.push(
      `${candidate}: ${found.problem ?? `CUDA ${found.version}, libtorch was built for ${major}`}`,
    );
  }
  for (const reason of reasons) say(`nvcc, ${reason}`);
  return fromWheels(major, offline, env);
}

function findOnPath(name, env) {
  for (const folder of (env.PATH ?? "").split(path.delimiter)) {
    const file = path.join(folder, name);
    if (folder && fs.existsSync(file)) return file;
  }
  return null;
}

async function fromWheels(major, offline, env) {
  const wheels = WHEELS[major];
  if (!wheels)
    throw new Error(`no compiler wheels are known for CUDA ${major}; install its toolkit and set CUDA_HOME`);
  const target = path.join(cacheRoot(env), `nvcc-${wheels[0].split("==")[1]}`);
  const root = path.join(target, "nvidia", `cu${major}`);
  const nvcc = path.join(root, "bin", "nvcc");
  const result = async () => {
    const found = await inspectNvcc(nvcc);
    if (found.problem) throw new Error(`${nvcc}: ${found.problem}`);
    return { ...found, source: "wheels", runtime: path.join(root, "lib") };
  };
  if (fs.existsSync(nvcc)) return result();
  if (offline) throw new Error("no nvcc is here and --offline forbids getting the compiler wheels");
  const python = await findPip(env);
  return withLock(path.join(cacheRoot(env), "locks", `${path.basename(target)}.lock`), "nvcc", async () => {
    if (!fs.existsSync(nvcc)) {
      const temporary = `${target}.tmp-${process.pid}`;
      try {
        say(`getting ${wheels.join(", ")}`);
        await run(python, [
          ...["-m", "pip", "install", "--quiet", "--no-deps", "--no-input", "--disable-pip-version-check"],
          ...["--root-user-action=ignore", "--target", temporary, ...wheels],
        ]);
        fs.renameSync(temporary, target);
      } finally {
        fs.rmSync(temporary, { recursive: true, force: true });
      }
    }
    return result();
  });
}
