// SPDX-License-Identifier: Apache-2.0
// Gets wheels with `pip download --no-deps`, so that mirrors, proxies and credentials the machine has
// set up for pip are honoured. Python is needed for nothing else. The wheels are asked for by platform,
// not for the Python that runs pip: only their libraries and headers are used.
import { spawn } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { megabytes } from "./download.mjs";
import { capture, say } from "./run.mjs";

const MACHINE = { x64: "x86_64", arm64: "aarch64" };
/** pip does not derive older manylinux tags from a newer one. */
const GLIBC = [17, 24, 25, 26, 27, 28];
const ATTEMPTS = 3;

/** The command that runs pip, or throws with the reason. CHATSPACE_PYTHON names another Python. */
export async function findPip(env = process.env) {
  const python = env.CHATSPACE_PYTHON || "python3";
  const probe = await capture(python, ["-m", "pip", "--version"], { timeoutMs: 30_000 });
  if (!probe.ok) throw new Error(`${python} -m pip does not run: ${probe.reason}`);
  return python;
}

/**
 * Downloads one wheel ("torch==2.11.0") into `folder` and gives its path. A wheel that is already there
 * is checked by pip against the index and kept.
 */
export async function downloadWheel(python, requirement, folder, { answerMs = 15_000 } = {}) {
  fs.mkdirSync(folder, { recursive: true });
  for (let attempt = 1; ; attempt += 1) {
    const outcome = await attemptWheel(python, requirement, folder, answerMs);
    if (outcome.wheel) return outcome.wheel;
    // What failed before the transfer began will fail again at once; a broken transfer may not.
    if (!outcome.started || attempt === ATTEMPTS) throw new Error(`${requirement}: ${outcome.reason}`);
    say(`${requirement}: ${outcome.reason}; trying again (${attempt + 1} of ${ATTEMPTS})`);
  }
}

async function attemptWheel(python, requirement, folder, answerMs) {
  const temporary = fs.mkdtempSync(path.join(folder, ".pip-"));
  const machine = MACHINE[process.arch] ?? process.arch;
  const platforms = [
    "manylinux1",
    "manylinux2010",
    "manylinux2014",
    ...GLIBC.map((minor) => `manylinux_2_${minor}`),
  ];
  const args = [
    "-m",
    "pip",
    "download",
    "--no-deps",
    "--no-input",
    "--no-cache-dir",
    "--disable-pip-version-check",
    "--only-binary=:all:",
    "--implementation",
    "cp",
    "--python-version",
    "3.12",
    "--abi",
    "cp312",
    "--abi",
    "none",
    "--abi",
    "abi3",
    ...platforms.flatMap((tag) => ["--platform", `${tag}_${machine}`]),
    "--platform",
    "any",
    "--retries",
    "1",
    "--timeout",
    "15",
    "--progress-bar",
    "off",
    "--dest",
    folder,
    requirement,
  ];
  return new Promise((resolve) => {
    // pip writes the growing wheel under TMPDIR: that is where progress can be seen.
    const child = spawn(python, args, {
      stdio: ["ignore", "pipe", "pipe"],
      // A group of its own: python3 may be a wrapper, whose end alone would leave pip running.
      detached: true,
      env: { ...process.env, TMPDIR: temporary, PIP_DEFAULT_TIMEOUT: "15", PYTHONUNBUFFERED: "1" },
    });
    let stdout = "";
    let stderr = "";
    let silent = false;
    const started = () =>
      /(Downloading|File was already downloaded|Saved) /.test(stdout) || sizeOf(temporary) > 0;
    const endGroup = () => {
      try {
        process.kill(-child.pid, "SIGKILL");
      } catch {
        // Already gone.
      }
    };
    // Ctrl-C no longer reaches that group by itself.
    const interrupted = () => process.exit(130);
    process.once("exit", endGroup).once("SIGINT", interrupted).once("SIGTERM", interrupted);
    const watchdog = setTimeout(() => {
      if (started()) return;
      silent = true;
      endGroup();
    }, answerMs);
    const progress = setInterval(() => {
      const bytes = sizeOf(temporary);
      if (bytes > 1e6) say(`${requirement}: ${megabytes(bytes)}`);
    }, 3_000);
    child.stdout.setEncoding("utf8").on("data", (text) => {
      stdout += text;
      const line = /Downloading \S+ \(([^)]+)\)/.exec(text);
      if (line) say(`${requirement}: downloading ${line[1]}`);
    });
    child.stderr.setEncoding("utf8").on("data", (text) => {
      stderr += text;
    });
    child.on("error", (error) => {
      stderr += error.message;
    });
    child.on("close", (code) => {
      clearTimeout(watchdog);
      clearInterval(progress);
      process.off("exit", endGroup).off("SIGINT", interrupted).off("SIGTERM", interrupted);
      const begun = started();
      fs.rmSync(temporary, { recursive: true, force: true });
      const name = /(?:Saved|File was already downloaded) (\S+\.whl)/.exec(stdout)?.[1];
      if (code === 0 && name) resolve({ wheel: path.join(folder, path.basename(name)) });
      else
        resolve({
          started: begun,
          reason: silent
            ? `no answer from the package index in ${answerMs / 1000} s`
            : pipReason(stderr, code),
        });
    });
  });
}

/** pip says "no matching distribution" also when it reached no index at all; its warnings tell which. */
function pipReason(stderr, code) {
  const lines = stderr
    .split("\n")
    .map((line) => line.replace(/^(ERROR|WARNING): /, "").trim())
    .filter(Boolean);
  const broken = /after connection broken by '(\w+)\((.*)\)'/.exec(
    lines.find((line) => line.includes("broken by")) ?? "",
  );
  if (broken)
    return `${broken[1]}: ${broken[2].replace(/^.*object at 0x[0-9a-f]+>:? ?/, "").replace(/['"]+$/, "")}`;
  const version = lines.find((line) => line.startsWith("Could not find a version"));
  return (version ?? lines.at(-1) ?? `pip exited with ${code}`).slice(0, 300);
}

function sizeOf(folder) {
  let bytes = 0;
  for (const name of fs.readdirSync(folder, { recursive: true })) {
    try {
      const stat = fs.statSync(path.join(folder, name));
      if (stat.isFile()) bytes += stat.size;
    } catch {
      // Gone between the two calls.
    }
  }
  return bytes;
}
