// SPDX-License-Identifier: Apache-2.0
// A libtorch with libtorch_cuda to link against. To link takes far less than to run: of the torch wheel
// the libraries and headers, of NVIDIA's wheels libcudart and libcupti alone, so a build machine gets
// half a gigabyte instead of three. vendor/libtorch is left as it is.
import path from "node:path";
import { cacheRoot, downloads, libtorchHome } from "./cache.mjs";
import { readElf } from "./elf.mjs";
import { DEFAULT_VERSION, inspectLibtorch } from "./libtorch-folder.mjs";
import { unpackLibtorch, wheelRequirements } from "./libtorch-unpack.mjs";
import { withLock } from "./lock.mjs";
import { downloadWheel, findPip } from "./pip.mjs";
import { capture, say } from "./run.mjs";

/** NVIDIA's wheels that libtorch_cpu of a CUDA build needs, where the torch wheel names no version. */
const RUNTIME = { 13: ["nvidia-cuda-runtime==13.0.96", "nvidia-cuda-cupti==13.0.85"] };

function inspectCuda(directory) {
  const found = inspectLibtorch(directory);
  if (found.problem || found.cuda) return found;
  return { problem: "it has no CUDA half (libtorch_cuda.so)" };
}

/**
 * @param {object} wanted
 * @param {string} wanted.root the package's folder
 * @param {string} [wanted.libtorch] this one and no other
 * @param {string} [wanted.version] default: the version vendor/libtorch has, which the addon is built with
 * @param {boolean} [wanted.offline] download nothing
 * @returns {Promise<{ directory: string, version: string, source: string, cudaMajor: number }>}
 */
export async function ensureCudaLibtorch({ root, libtorch, version, offline = false, env = process.env }) {
  const vendor = path.join(root, "vendor", "libtorch");
  const named = libtorch ?? env.CHATSPACE_LIBTORCH;
  const of = (found, source) => ({ ...found, source, cudaMajor: cudaMajor(found.directory) });
  if (libtorch) {
    const found = inspectCuda(path.resolve(libtorch));
    if (found.problem) throw new Error(`libtorch in ${libtorch}: ${found.problem}`);
    return of(found, "option");
  }
  const wanted = version ?? inspectLibtorch(named ?? vendor).version ?? DEFAULT_VERSION;
  const linkHome = path.join(cacheRoot(env), `libtorch-${wanted}-cuda-link`);
  const places = [
    ...(named ? [["CHATSPACE_LIBTORCH", path.resolve(named)]] : []),
    ["vendor/libtorch", vendor],
    ["user cache", libtorchHome(wanted, true, env)],
    ["user cache", linkHome],
    ["Python torch", await pythonTorch(env)],
  ];
  for (const [source, directory] of places) {
    if (directory === null) continue;
    const found = inspectCuda(directory);
    if (!found.problem && found.version === wanted) return of(found, source);
  }
  if (offline) throw new Error(`no libtorch ${wanted} with CUDA is here and --offline forbids getting one`);
  await withLock(`${linkHome}.lock`, `libtorch ${wanted} to link with`, async () => {
    if (!inspectCuda(linkHome).problem) return;
    const python = await findPip(env);
    say(`getting the torch ${wanted} wheel to link with (about 0.5 GB, once)`);
    const torch = await downloadWheel(python, `torch==${wanted}`, downloads(env));
    const extras = [];
    for (const requirement of runtimeRequirements(torch))
      extras.push(await downloadWheel(python, requirement, downloads(env)));
    await unpackLibtorch({
      torch,
      extras,
      cuda: true,
      version: wanted,
      source: "torch wheel, to link",
      target: linkHome,
    });
  });
  const found = inspectCuda(linkHome);
  if (found.problem) throw new Error(`libtorch in ${linkHome}: ${found.problem}`);
  return of(found, "torch wheel");
}

function runtimeRequirements(torch) {
  const lines = wheelRequirements(torch);
  const pinned = lines
    .map((line) => /^(nvidia-cuda-(?:runtime|cupti)(?:-cu\d+)?)\s*\(?==([\w.]+)/.exec(line))
    .filter((match) => match !== null)
    .map(([, name, version]) => `${name}==${version}`);
  if (pinned.length > 0) return pinned;
  const toolkit = lines.map((line) => /^cuda-toolkit.*==(\d+)/.exec(line)?.[1]).find(Boolean);
  const known = RUNTIME[toolkit];
  if (!known)
    throw new Error(`no CUDA runtime wheels are known for CUDA ${toolkit ?? "of an unknown version"}`);
  return known;
}

async function pythonTorch(env) {
  const code = "import importlib.util as u; s = u.find_spec('torch'); print(s.origin if s else '')";
  const answer = await capture(env.CHATSPACE_PYTHON || "python3", ["-c", code], { timeoutMs: 5_000 });
  return answer.ok && answer.stdout.trim() ? path.dirname(answer.stdout.trim()) : null;
}

/** Which CUDA runtime this libtorch was built with: what libc10_cuda.so asks for. */
function cudaMajor(directory) {
  const needed = readElf(path.join(directory, "lib", "libc10_cuda.so"))?.needed ?? [];
  const major = needed.map((name) => /^libcudart\.so\.(\d+)/.exec(name)?.[1]).find(Boolean);
  if (!major) throw new Error(`${directory}/lib/libc10_cuda.so does not say which CUDA runtime it needs`);
  return Number(major);
}
