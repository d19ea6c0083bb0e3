// SPDX-License-Identifier: Apache-2.0
// Turns downloaded archives into a libtorch folder: include/, lib/, build-version, manifest.json with the
// sha256 of every library. Written beside its final place and renamed, so it is whole or absent.
import fs from "node:fs";
import path from "node:path";
import { libraryProblem } from "./libtorch-folder.mjs";
import { say } from "./run.mjs";
import { Zip } from "./zip.mjs";

/** Libraries of a torch build that only Python or a GPU needs; libtorch.so is an empty shell around the parts. */
const PYTHON_ONLY = /^lib(torch|torch_python|shm|torch_global_deps)\.so/;
const CUDA_ONLY = /^lib(torch_cuda|c10_cuda|caffe2_nvrtc|torch_nvshmem|torch_cuda_linalg)[^/]*\.so/;
/** Of the NVIDIA wheels the CPU half takes these two; libtorch_cpu of a CUDA build names them. */
const CPU_RUNTIME = /^lib(cudart|cupti)\.so/;

/**
 * Unpacks into `target`. `torch` is a torch wheel or one of PyTorch's archives; `extras` NVIDIA wheels.
 * @param {{ torch: string, extras: string[], cuda: boolean, version: string, source: string, target: string }} what
 */
export async function unpackLibtorch({ torch, extras, cuda, version, source, target }) {
  const temporary = `${target}.tmp-${process.pid}`;
  fs.rmSync(temporary, { recursive: true, force: true });
  const files = {};
  try {
    const wanted = (name) => !PYTHON_ONLY.test(name) && (cuda || !CUDA_ONLY.test(name));
    await unpackOne(torch, temporary, files, wanted, "torch");
    for (const wheel of extras)
      await unpackOne(
        wheel,
        temporary,
        files,
        (name) => cuda || CPU_RUNTIME.test(name),
        cuda ? "nvidia" : null,
      );
    fs.writeFileSync(path.join(temporary, "build-version"), `${version}\n`);
    const manifest = { version, variant: cuda ? "cuda" : "cpu", source, files };
    fs.writeFileSync(path.join(temporary, "manifest.json"), `${JSON.stringify(manifest, null, 2)}\n`);
    const problem = libraryProblem(temporary);
    if (problem) throw new Error(`the unpacked libtorch is not whole: ${problem}`);
    // An older folder goes in the same moment the new one comes.
    const old = `${target}.old-${process.pid}`;
    if (fs.existsSync(target)) fs.renameSync(target, old);
    fs.renameSync(temporary, target);
    fs.rmSync(old, { recursive: true, force: true });
  } finally {
    fs.rmSync(temporary, { recursive: true, force: true });
  }
}

/** `headers`: "torch" takes torch/include, "nvidia" takes nvidia/*\/include into include-cuda/, null none. */
async function unpackOne(file, folder, files, wanted, headers) {
  const zip = new Zip(file);
  try {
    say(`unpacking ${path.basename(file)}`);
    const record = readRecord(zip);
    for (const name of zip.entries.keys()) {
      const library = /(?:^|\/)(?:lib|lib64|torch\.libs)\/([^/]+\.so[^/]*)$/.exec(name);
      const torchHeader = headers === "torch" && /^(?:torch|libtorch)\/(include\/.+)$/.exec(name);
      const cudaHeader = headers === "nvidia" && /^nvidia\/[^/]+\/include\/(.+)$/.exec(name);
      let place;
      if (library && wanted(library[1])) place = `lib/${library[1]}`;
      else if (torchHeader) place = torchHeader[1];
      else if (cudaHeader) place = `include-cuda/${cudaHeader[1]}`;
      else continue;
      if (place.split("/").includes("..")) throw new Error(`${path.basename(file)}: refused member ${name}`);
      const got = await zip.extract(name, path.join(folder, place));
      const expected = record.get(name);
      if (expected && expected !== got.sha256)
        throw new Error(
          `${path.basename(file)}: ${name} has sha256 ${got.sha256}, its RECORD says ${expected}`,
        );
      if (place.startsWith("lib/")) files[place] = got;
    }
  } finally {
    zip.close();
  }
}

/** A wheel's RECORD: member -> sha256 (hex). Empty for archives that have none. */
function readRecord(zip) {
  const record = new Map();
  const name = [...zip.entries.keys()].find((entry) => /^[^/]+\.dist-info\/RECORD$/.test(entry));
  if (!name) return record;
  for (const line of zip.read(name).toString("utf8").split("\n")) {
    const match = /^"?(.+?)"?,sha256=([\w-]+),\d*\r?$/.exec(line);
    if (match) record.set(match[1], Buffer.from(match[2], "base64url").toString("hex"));
  }
  return record;
}

/** The Requires-Dist lines of a wheel. */
export function wheelRequirements(file) {
  const zip = new Zip(file);
  try {
    const name = [...zip.entries.keys()].find((entry) => /^[^/]+\.dist-info\/METADATA$/.test(entry));
    if (!name) throw new Error(`${path.basename(file)} is no wheel: it has no METADATA`);
    const lines = zip.read(name).toString("utf8").split("\n");
    return lines.filter((line) => line.startsWith("Requires-Dist: ")).map((line) => line.slice(15).trim());
  } finally {
    zip.close();
  }
}
