// SPDX-License-Identifier: Apache-2.0
// Finds or gets libtorch. Sources in order; the first that gives a whole libtorch of the wanted kind
// wins, every other one says in a second or two why it did not:
//   option / CHATSPACE_LIBTORCH, vendor/libtorch, user cache, a Python torch, PyTorch's archive, the wheels.
// The result is linked as vendor/libtorch, where CMake and the addon's rpath look.
import fs from "node:fs";
import path from "node:path";
import { cacheRoot, downloads, libtorchHome } from "./cache.mjs";
import { download } from "./download.mjs";
import { DEFAULT_VERSION, inspectLibtorch, verifyHashes } from "./libtorch-folder.mjs";
import { unpackLibtorch, wheelRequirements } from "./libtorch-unpack.mjs";
import { withLock } from "./lock.mjs";
import { downloadWheel, findPip } from "./pip.mjs";
import { capture, say } from "./run.mjs";

/** CUDA builds PyTorch publishes archives of, newest first. */
const CUDA_BUILDS = ["cu130", "cu132", "cu129", "cu128"];
/** Of torch's requirements these are not libraries libtorch loads. */
const NOT_NEEDED = /^(triton|cuda-bindings|pytorch-triton)$/;

/**
 * @param {object} wanted
 * @param {string} wanted.root the package's folder
 * @param {string} [wanted.libtorch] an unpacked libtorch; must fit, nothing else is tried
 * @param {string} [wanted.version] exactly this version; without it any supported one that is at hand
 * @param {boolean} [wanted.cuda] with the CUDA libraries
 * @param {boolean} [wanted.force] leave out what is already on this machine
 * @param {boolean} [wanted.verify] check the sha256 of every library
 * @param {boolean} [wanted.offline] download nothing
 * @returns {Promise<{ directory: string, version: string, cuda: boolean, source: string }>}
 */
export async function ensureLibtorch(wanted) {
  const { root, env = process.env } = wanted;
  const vendor = path.join(root, "vendor", "libtorch");
  const named = wanted.libtorch ?? env.CHATSPACE_LIBTORCH;
  if (named) {
    const directory = path.resolve(named);
    const found = await check(directory, wanted);
    if (found.problem) throw new Error(`libtorch in ${directory}: ${found.problem}`);
    return link(vendor, { ...found, source: wanted.libtorch ? "option" : "CHATSPACE_LIBTORCH" });
  }
  const sources = [
    ...(wanted.force
      ? []
      : [
          ["vendor/libtorch", () => accept(vendor, wanted)],
          ["user cache", () => fromCache(wanted, env)],
          ["Python torch", () => fromPython(wanted, env)],
        ]),
    ...(wanted.offline
      ? []
      : [
          ["PyTorch archive", () => obtain(wanted, env, fromArchive)],
          ["torch wheel", () => obtain(wanted, env, fromWheels)],
        ]),
  ];
  const reasons = [];
  for (const [source, get] of sources) {
    try {
      return link(vendor, { ...(await get()), source });
    } catch (error) {
      reasons.push(`${source}: ${error.message}`);
      if (source !== "vendor/libtorch" || fs.existsSync(vendor)) say(`libtorch, ${source}: ${error.message}`);
    }
  }
  throw Object.assign(
    new Error(
      `no libtorch ${wanted.version ?? DEFAULT_VERSION} was found or could be got:\n${reasons.map((r) => `  - ${r}`).join("\n")}\n` +
        "Unpack one yourself and name it with CHATSPACE_LIBTORCH=<folder with include/ and lib/>, " +
        "or make one of these sources reachable (a pip mirror by PIP_INDEX_URL, an archive mirror by CHATSPACE_LIBTORCH_URL).",
    ),
    { reasons },
  );
}

async function check(directory, wanted) {
  const found = inspectLibtorch(directory);
  if (found.problem) return found;
  if (wanted.version && found.version !== wanted.version)
    return { problem: `version ${found.version}, expected ${wanted.version}` };
  if (wanted.cuda && !found.cuda) return { problem: "it has no CUDA half (libtorch_cuda.so)" };
  const damage = wanted.verify ? await verifyHashes(directory) : null;
  return damage ? { problem: damage } : found;
}

async function accept(directory, wanted) {
  const found = await check(directory, wanted);
  if (found.problem) throw new Error(found.problem);
  return found;
}

async function fromCache(wanted, env) {
  const version = wanted.version ?? DEFAULT_VERSION;
  const kinds = wanted.cuda ? [true] : [false, true];
  let problem = "";
  for (const cuda of kinds) {
    const found = await check(libtorchHome(version, cuda, env), wanted);
    if (!found.problem) return found;
    problem ||= `${libtorchHome(version, cuda, env)}: ${found.problem}`;
  }
  throw new Error(problem);
}

async function fromPython(wanted, env) {
  const python = env.CHATSPACE_PYTHON || "python3";
  // find_spec does not import torch, which takes seconds.
  const code = "import importlib.util as u; s = u.find_spec('torch'); print(s.origin if s else '')";
  const answer = await capture(python, ["-c", code], { timeoutMs: 10_000 });
  if (!answer.ok) throw new Error(answer.reason);
  const origin = answer.stdout.trim();
  if (!origin) throw new Error(`${python} has no torch`);
  return accept(path.dirname(origin), wanted);
}

/** Runs a download into the user cache, one process at a time; the second finds the first one's result. */
async function obtain(wanted, env, get) {
  const version = wanted.version ?? DEFAULT_VERSION;
  const target = libtorchHome(version, wanted.cuda === true, env);
  const lock = path.join(cacheRoot(env), "locks", `${path.basename(target)}.lock`);
  return withLock(lock, `libtorch ${version}`, async () => {
    if (!wanted.force) {
      const found = await check(target, { ...wanted, version });
      if (!found.problem) return found;
    }
    await get({ version, cuda: wanted.cuda === true, target, env });
    return accept(target, { ...wanted, version });
  });
}

async function fromArchive({ version, cuda, target, env }) {
  if (process.platform !== "linux" || process.arch !== "x64")
    throw new Error(`PyTorch publishes no archive for ${process.platform}-${process.arch}`);
  const base = (env.CHATSPACE_LIBTORCH_URL || "https://download.pytorch.org/libtorch").replace(/\/$/, "");
  const reasons = [];
  for (const build of cuda ? CUDA_BUILDS : ["cpu"]) {
    const name = `libtorch-shared-with-deps-${version}%2B${build}.zip`;
    const file = path.join(downloads(env), decodeURIComponent(name));
    try {
      if (!fs.existsSync(file)) await download(`${base}/${build}/${name}`, file);
    } catch (error) {
      reasons.push(error.message);
      if (/HTTP 40[34]/.test(error.message)) continue;
      break;
    }
    await unpackAndDrop({
      torch: file,
      extras: [],
      cuda,
      version,
      source: `PyTorch archive ${build}`,
      target,
    });
    return;
  }
  throw new Error(reasons.join("; "));
}

async function fromWheels({ version, cuda, target, env }) {
  if (process.platform !== "linux") throw new Error(`no wheel is tried on ${process.platform}`);
  const python = await findPip(env);
  const folder = downloads(env);
  const torch = await downloadWheel(python, `torch==${version}`, folder);
  let requirements;
  try {
    requirements = await nvidiaRequirements(python, torch, folder, cuda);
  } catch (error) {
    dropIfDamaged(torch, error);
    throw error;
  }
  const extras = [];
  for (const requirement of requirements) extras.push(await downloadWheel(python, requirement, folder));
  await unpackAndDrop({ torch, extras, cuda, version, source: "torch wheel", target });
}

/**
 * The NVIDIA wheels a torch wheel asks for, as "name==version". Newer wheels name the meta package
 * cuda-toolkit with extras, whose own metadata has the versions. For the CPU half two remain.
 */
async function nvidiaRequirements(python, torch, folder, cuda) {
  const wanted = new Map();
  for (const line of wheelRequirements(torch)) {
    const { name, version, extras } = parseRequirement(line);
    if (!version || line.includes("extra ==") || NOT_NEEDED.test(name)) continue;
    if (name === "cuda-toolkit") {
      const meta = await downloadWheel(python, `cuda-toolkit==${version}`, folder);
      for (const inner of wheelRequirements(meta)) {
        const asked = /extra == ["']([\w-]+)["']/.exec(inner)?.[1];
        const part = parseRequirement(inner);
        if (asked && extras.includes(asked) && part.version && part.name.startsWith("nvidia-"))
          wanted.set(part.name, part.version);
      }
      fs.rmSync(meta, { force: true });
    } else if (name.startsWith("nvidia-")) wanted.set(name, version);
  }
  return [...wanted]
    .filter(([name]) => cuda || /^nvidia-cuda-(runtime|cupti)(-cu\d+)?$/.test(name))
    .map(([name, version]) => `${name}==${version}`);
}

function parseRequirement(line) {
  const match = /^([\w.-]+)\s*(?:\[([^\]]*)\])?\s*\(?==([\w.]+(?:\.\*)?)/.exec(line);
  return {
    name: match?.[1] ?? "",
    extras: (match?.[2] ?? "").split(",").map((extra) => extra.trim()),
    version: match?.[3] ?? "",
  };
}

/** The downloads have served once the folder is whole; a damaged one must not be found again. */
async function unpackAndDrop(what) {
  const files = [what.torch, ...what.extras];
  try {
    await unpackLibtorch(what);
  } catch (error) {
    for (const file of files) dropIfDamaged(file, error);
    throw error;
  }
  for (const file of files) fs.rmSync(file, { force: true });
}

function dropIfDamaged(file, error) {
  if (error.message.includes(path.basename(file))) fs.rmSync(file, { force: true });
}

/** Makes vendor/libtorch a link to what was found. A real folder there is the user's and stays. */
function link(vendor, found) {
  if (path.resolve(found.directory) === vendor) return found;
  try {
    const present = fs.lstatSync(vendor, { throwIfNoEntry: false });
    if (present && !present.isSymbolicLink()) return found;
    fs.mkdirSync(path.dirname(vendor), { recursive: true });
    const temporary = `${vendor}.${process.pid}`;
    fs.symlinkSync(found.directory, temporary);
    fs.renameSync(temporary, vendor);
    return { ...found, directory: vendor };
  } catch (error) {
    // An installed package may lie in a read-only place; the loader then opens it where it is.
    say(`vendor/libtorch could not be linked (${error.message}); ${found.directory} is used where it is`);
    return found;
  }
}
