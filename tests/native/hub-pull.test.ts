// SPDX-License-Identifier: Apache-2.0
// Pulling models from a hub that cuts, lies, refuses and redirects: what arrives is whole and right, or
// nothing has its name; the cache folder is the one Python's client reads.

import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { readSafetensors, writeSafetensors } from "../../src/formats/safetensors.ts";
import { hubPlace, parseHubName } from "../../src/model/hub/place.ts";
import { findOrPull, type HubModelOptions, pullFromHub } from "../../src/model/hub/pull.ts";
import { listModels, removeModel } from "../../src/model/store.ts";
import { end, gitBlob, type HubFixture, serve, sha256, startHub, TOKEN } from "../unit/hub-server.ts";
import { load } from "./converted-model.ts";
import { writeGgufModel, writeGgufParts } from "./gguf-model.ts";
import { shared } from "./golden.ts";

const LLAMA = shared("golden/decoders/llama");
const COMMIT = "0123456789abcdef0123456789abcdef01234567";
const LATER = "89abcdef0123456789abcdef0123456789abcdef";
const NAME = parseHubName("org/tiny")!;

let root: string;
let hub: HubFixture;

beforeEach(async () => {
  root = mkdtempSync(join(tmpdir(), "chatspace-hub-"));
  hub = await startHub();
});
afterEach(() => {
  hub.close();
  rmSync(root, { recursive: true, force: true });
});

function options(more: Record<string, string> = {}): HubModelOptions {
  return {
    cache: join(root, "ours"),
    environment: { HF_ENDPOINT: hub.endpoint, HF_HOME: join(root, "hf"), ...more },
    tries: 3,
    patience: 5_000,
  };
}

const folder = () => join(root, "hf/hub/models--org--tiny");
const snapshot = (commit = COMMIT) => join(folder(), "snapshots", commit);
const names = () => [...hub.asked].map(({ method, origin }) => `${method} ${origin}`);

function tiny(): Map<string, Buffer> {
  const files = ["config.json", "generation_config.json", "model.safetensors"];
  return new Map(files.map((name) => [name, readFileSync(join(LLAMA, name))]));
}

function serveTiny(files = tiny(), more: { private?: boolean } = {}): Map<string, Buffer> {
  hub.repositories.set("org/tiny", { commit: COMMIT, files, ...more });
  return files;
}

/** The archive loads and says where it came from. */
async function opened(archive: string): Promise<{ repository: string; revision: string; files: unknown[] }> {
  const model = await load(archive);
  try {
    return (JSON.parse(model.info.metadata) as { source: never }).source;
  } finally {
    await model.dispose();
  }
}

/** Nothing that a reader could take for a file is in the cache; partial files and locks are no such. */
function nothingNamed(): boolean {
  const below = existsSync(folder()) ? readdirSync(folder(), { recursive: true, encoding: "utf8" }) : [];
  const weights = sha256(tiny().get("model.safetensors")!);
  return !below.some((path) => path.endsWith("model.safetensors") || path.endsWith(weights));
}

describe.skipIf(!existsSync(LLAMA))("pull", () => {
  test("fetches, verifies, converts; the archive names repository, commit, file and hash", async () => {
    const files = serveTiny();
    const stages: string[] = [];
    const archive = await pullFromHub(NAME, {
      ...options(),
      onProgress: ({ stage, bytesDone, bytesTotal }) => stages.push(`${stage} ${bytesDone === bytesTotal}`),
    });
    const weights = files.get("model.safetensors")!;
    expect(await opened(archive)).toEqual({
      format: "safetensors",
      files: [{ name: "model.safetensors", bytes: weights.length, sha256: sha256(weights) }],
      repository: "org/tiny",
      revision: COMMIT,
    });
    expect(stages).toContain("download true");
    expect(stages.at(-1)).toBe("convert true");
    // The layout of Python's client.
    expect(readFileSync(join(folder(), "refs/main"), "utf8")).toBe(COMMIT);
    expect(readlinkSync(join(snapshot(), "model.safetensors"))).toBe(`../../blobs/${sha256(weights)}`);
    expect(readlinkSync(join(snapshot(), "config.json"))).toBe(
      `../../blobs/${gitBlob(files.get("config.json")!)}`,
    );
    expect(readdirSync(join(folder(), "blobs")).filter((name) => !/^[0-9a-f]+$/.test(name))).toEqual([]);
  });

  test("a second load asks nobody; a second pull asks for the commit alone; a new commit is taken", async () => {
    const files = serveTiny();
    const archive = await pullFromHub(NAME, options());
    hub.asked.length = 0;
    expect(await findOrPull(NAME, options())).toBe(archive);
    expect(hub.asked).toEqual([]);
    expect(await pullFromHub(NAME, options())).toBe(archive);
    expect(names().filter((name) => name.startsWith("GET"))).toEqual(["GET hub"]);

    const config = Buffer.from(files.get("config.json")!.toString().replace(/}\s*$/, ', "note": 1}'));
    hub.repositories.set("org/tiny", { commit: LATER, files: new Map([...files, ["config.json", config]]) });
    hub.asked.length = 0;
    const later = await pullFromHub(NAME, options());
    expect(later).not.toBe(archive);
    // The weights did not change and are not fetched again.
    expect(hub.asked.filter(({ origin }) => origin === "store")).toEqual([]);
    expect(await findOrPull(NAME, options())).toBe(later);
    expect(await findOrPull({ ...NAME, revision: COMMIT }, options())).toBe(archive);
  });

  test("what Python has cached is used without a network, and after its cache is emptied", async () => {
    const files = tiny();
    files.set("tokenizer.json", readFileSync(shared("models/llama-stories260K/hf/tokenizer.json")));
    mkdirSync(join(folder(), "refs"), { recursive: true });
    mkdirSync(join(folder(), "blobs"));
    mkdirSync(snapshot(), { recursive: true });
    writeFileSync(join(folder(), "refs/main"), COMMIT);
    for (const [name, bytes] of files) {
      const etag = /safetensors/.test(name) ? sha256(bytes) : gitBlob(bytes);
      writeFileSync(join(folder(), "blobs", etag), bytes);
      symlinkSync(`../../blobs/${etag}`, join(snapshot(), name));
    }
    const offline = options({ HF_ENDPOINT: "http://127.0.0.1:9", HF_HUB_OFFLINE: "1" });
    expect(listModels(offline.cache, hubPlace(offline.environment)).at(-1)).toMatchObject({
      name: "org/tiny",
      state: "fetched",
    });
    const archive = await findOrPull(NAME, offline);
    expect((await opened(archive)).repository).toBe("org/tiny");
    rmSync(folder(), { recursive: true });
    expect(await findOrPull(NAME, offline)).toBe(archive);
    expect(listModels(offline.cache, hubPlace(offline.environment)).at(-1)).toMatchObject({
      name: "org/tiny",
      state: "ready",
      path: archive,
    });
    await removeModel("org/tiny", offline.cache);
    await expect(findOrPull(NAME, offline)).rejects.toMatchObject({ code: "ERR_SERVICE_UNREACHABLE" });
  });

  test("a blob that another program left damaged is fetched anew, not converted", async () => {
    const files = serveTiny();
    await pullFromHub(NAME, options());
    rmSync(join(root, "ours"), { recursive: true });
    const weights = files.get("model.safetensors")!;
    const blob = join(folder(), "blobs", sha256(weights));
    const damaged = Buffer.from(weights);
    damaged[weights.length - 9]! ^= 4;
    writeFileSync(blob, damaged);
    expect((await opened(await findOrPull(NAME, options()))).revision).toBe(COMMIT);
    expect(sha256(readFileSync(blob))).toBe(sha256(weights));
  });

  test("shards are found by their index", async () => {
    const files = tiny();
    const tensors = [...readSafetensors(join(LLAMA, "model.safetensors")).tensors];
    const half = tensors.length >> 1;
    files.delete("model.safetensors");
    const map: Record<string, string> = {};
    for (const [index, part] of [tensors.slice(0, half), tensors.slice(half)].entries()) {
      const name = `model-0000${index + 1}-of-00002.safetensors`;
      files.set(name, Buffer.from(writeSafetensors(new Map(part))));
      for (const [tensor] of part) map[tensor] = name;
    }
    files.set("model.safetensors.index.json", Buffer.from(JSON.stringify({ weight_map: map })));
    serveTiny(files);
    const source = await opened(await pullFromHub(NAME, options()));
    expect(source.files).toHaveLength(2);
  });
});

describe.skipIf(!existsSync(LLAMA))("pull, of GGUF files", () => {
  test("the one that is named is taken, alone; each has an archive of its own", async () => {
    const files = serveTiny(new Map([["README.md", Buffer.from("# tiny")]]));
    for (const [name, family] of [
      ["tiny-F32.gguf", "llama"],
      ["tiny-other.gguf", "llama-biased-tied"],
    ] as const) {
      writeGgufModel(family, "llama", join(root, name));
      files.set(name, readFileSync(join(root, name)));
    }
    await expect(pullFromHub(NAME, options())).rejects.toMatchObject({
      code: "ERR_HUB_FILE",
      message: expect.stringContaining("tiny-F32.gguf\n  tiny-other.gguf"),
    });
    const archive = await pullFromHub(parseHubName("org/tiny:f32")!, options());
    expect(await opened(archive)).toMatchObject({
      format: "gguf",
      files: [{ name: "tiny-F32.gguf", sha256: sha256(files.get("tiny-F32.gguf")!) }],
      repository: "org/tiny",
    });
    expect(readdirSync(snapshot())).toEqual(["tiny-F32.gguf"]);
    expect(await pullFromHub(parseHubName("org/tiny:other")!, options())).not.toBe(archive);
    const { cache, environment } = options();
    expect(listModels(cache, hubPlace(environment)).map(({ name, state }) => `${name} ${state}`)).toEqual(
      expect.arrayContaining(["org/tiny:f32 ready", "org/tiny:other ready"]),
    );
  });
});

describe.skipIf(!existsSync(LLAMA))("pull, of a GGUF model in parts", () => {
  test("all parts are fetched and checked, and make one archive; a second load asks nobody", async () => {
    const files = serveTiny(new Map([["README.md", Buffer.from("# tiny")]]));
    const whole = join(root, "tiny-F32.gguf");
    writeGgufModel("llama", "llama", whole);
    const parts = writeGgufParts(whole, join(root, "tiny-F32"), 2);
    for (const part of parts) files.set(basename(part), readFileSync(part));
    const archive = await pullFromHub(NAME, options());
    expect(await opened(archive)).toMatchObject({
      format: "gguf",
      files: parts.map((part) => ({ name: basename(part), sha256: sha256(readFileSync(part)) })),
    });
    hub.asked.length = 0;
    expect(await findOrPull(NAME, options())).toBe(archive);
    expect(hub.asked).toEqual([]);
  });
});

describe.skipIf(!existsSync(LLAMA))("a hub that misbehaves", () => {
  const isWeights = (path: string) => !path.startsWith("/api") && !path.endsWith(".json");

  test("a file cut again and again is resumed by range, each time further", async () => {
    const weights = serveTiny().get("model.safetensors")!;
    hub.misbehave = ({ origin, range }, response, count) => {
      if (origin !== "store" || count > 6) return false;
      const start = Number(/bytes=(\d+)-/.exec(range ?? "")?.[1] ?? 0);
      response.writeHead(start > 0 ? 206 : 200, { "content-length": weights.length - start });
      response.write(weights.subarray(start, start + 60_000), () => setTimeout(() => response.destroy(), 60));
      return true;
    };
    await opened(await pullFromHub(NAME, options()));
    const starts = hub.asked
      .filter(({ origin }) => origin === "store")
      .map(({ range }) => Number(/\d+/.exec(range ?? "0")![0]));
    // More cuts than tries without progress are allowed.
    expect(starts.length).toBe(7);
    expect(starts.slice(1).every((start, i) => start > starts[i]!)).toBe(true);
  });

  test("a pull that was broken off goes on where it ended", async () => {
    const weights = serveTiny().get("model.safetensors")!;
    const stop = new AbortController();
    hub.misbehave = ({ origin }, response, count) => {
      if (origin !== "store" || count > 1) return false;
      response.writeHead(200, { "content-length": weights.length });
      response.write(weights.subarray(0, 200_000), () =>
        setTimeout(() => stop.abort(new Error("enough")), 200),
      );
      return true;
    };
    await expect(pullFromHub(NAME, { ...options(), signal: stop.signal })).rejects.toThrowError("enough");
    expect(nothingNamed()).toBe(true);
    await opened(await pullFromHub(NAME, options()));
    expect(
      Number(/\d+/.exec(hub.asked.findLast(({ origin }) => origin === "store")!.range!)![0]),
    ).toBeGreaterThan(100_000);
  });

  test("wrong bytes of the right length are refused, and kept nowhere", async () => {
    const wrong = Buffer.from(serveTiny().get("model.safetensors")!);
    wrong[1000]! ^= 1;
    hub.misbehave = (asked, response) => {
      if (asked.origin !== "store") return false;
      serve(wrong, asked, response);
      return true;
    };
    await expect(pullFromHub(NAME, options())).rejects.toMatchObject({
      code: "ERR_HUB_HASH",
      details: { got: sha256(wrong) },
    });
    expect(nothingNamed()).toBe(true);
    expect(readdirSync(join(folder(), "blobs")).some((name) => name.includes("partial"))).toBe(false);
    expect(existsSync(join(root, "ours/archives"))).toBe(false);
    hub.misbehave = null;
    await opened(await pullFromHub(NAME, options()));
  });

  test("wrong bytes left of an earlier pull are dropped and the file fetched whole", async () => {
    const weights = serveTiny().get("model.safetensors")!;
    mkdirSync(join(folder(), "blobs"), { recursive: true });
    writeFileSync(join(folder(), "blobs", `${sha256(weights)}.chatspace.partial`), Buffer.alloc(5000, 7));
    await opened(await pullFromHub(NAME, options()));
  });

  test("a small file that was altered is noticed by its git hash", async () => {
    const config = serveTiny().get("config.json")!;
    hub.misbehave = (asked, response) => {
      if (asked.method !== "GET" || !asked.path.endsWith("/config.json")) return false;
      const altered = config.toString().replace('"hidden_size"', '"hidden_sise"');
      serve(Buffer.from(altered), asked, response);
      return true;
    };
    await expect(pullFromHub(NAME, options())).rejects.toMatchObject({ code: "ERR_HUB_HASH" });
  });

  test("429 is asked again after the time it names", async () => {
    serveTiny();
    hub.misbehave = ({ origin, path }, response, count) => {
      if (count > 1 || (origin !== "store" && !path.startsWith("/api"))) return false;
      end(response, 429, { "retry-after": "1" });
      return true;
    };
    const start = performance.now();
    await pullFromHub(NAME, options());
    const ms = performance.now() - start;
    expect(ms).toBeGreaterThan(1_900);
    expect(ms).toBeLessThan(20_000);
  });

  test("429 without end is an error, not a hang", async () => {
    serveTiny();
    hub.misbehave = (_, response) => {
      end(response, 429, { "retry-after": "0" });
      return true;
    };
    await expect(pullFromHub(NAME, options())).rejects.toMatchObject({
      code: "ERR_HUB_STATUS",
      details: { status: 429 },
    });
  });

  test("the token goes to the hub and never to the origin that a redirect names", async () => {
    serveTiny(tiny(), { private: true });
    await expect(pullFromHub(NAME, options())).rejects.toMatchObject({ code: "ERR_HUB_ACCESS" });
    hub.asked.length = 0;
    await pullFromHub(NAME, options({ HF_TOKEN: TOKEN }));
    const tokens = (origin: string) =>
      new Set(hub.asked.filter((asked) => asked.origin === origin).map((asked) => asked.authorization));
    expect([...tokens("hub")]).toEqual([`Bearer ${TOKEN}`]);
    expect([...tokens("store")]).toEqual([undefined]);
  });

  test("a renamed repository is followed on the same origin, with the token", async () => {
    const files = serveTiny(tiny(), { private: true });
    hub.misbehave = ({ path }, response) => {
      if (!path.includes("org/old")) return false;
      end(response, 307, { location: path.replace("org/old", "org/tiny") });
      return true;
    };
    const archive = await pullFromHub(parseHubName("org/old")!, options({ HF_TOKEN: TOKEN }));
    const { files: listed } = await opened(archive);
    expect(listed).toMatchObject([{ sha256: sha256(files.get("model.safetensors")!) }]);
  });

  test("redirects without end are refused", async () => {
    serveTiny();
    hub.misbehave = ({ path }, response) => {
      end(response, 302, { location: path });
      return true;
    };
    await expect(pullFromHub(NAME, options())).rejects.toMatchObject({ code: "ERR_HUB_ANSWER" });
  });

  test.each([
    ["a repository that is not there", "org/none", "ERR_HUB_ACCESS"],
    ["a revision that is not there", "org/tiny@other", "ERR_HUB_NOT_FOUND"],
    ["a file that is not there", "org/tiny:Q8_0", "ERR_HUB_FILE"],
  ])("%s is named", async (_, name, code) => {
    serveTiny();
    await expect(pullFromHub(parseHubName(name)!, options())).rejects.toMatchObject({ code });
    expect(existsSync(join(root, "ours/pulled"))).toBe(false);
  });

  test("a login page in place of an answer, and a file without a hash, are no hub", async () => {
    const page = Buffer.from("<!doctype html><title>Please log in</title>");
    serveTiny();
    hub.misbehave = (asked, response) => {
      serve(page, asked, response, { "content-type": "text/html" });
      return true;
    };
    await expect(pullFromHub(NAME, options())).rejects.toMatchObject({
      code: "ERR_HUB_ANSWER",
      message: expect.stringContaining("<!doctype html>"),
    });
    hub.misbehave = ({ path }, response) => {
      if (path.startsWith("/api")) return false;
      end(response, 200, { etag: '"5f3-61"', "content-length": "1" });
      return true;
    };
    await expect(pullFromHub(NAME, options())).rejects.toMatchObject({ code: "ERR_HUB_ANSWER" });
  });

  test("a path that would leave the folder is refused", async () => {
    const files = serveTiny();
    hub.repositories.get("org/tiny")!.files = new Map([...files, ["../../evil.json", Buffer.from("{}")]]);
    await expect(pullFromHub(NAME, options())).rejects.toMatchObject({ code: "ERR_HUB_ANSWER" });
  });

  test("a hub that is not there is said so at once", async () => {
    const start = performance.now();
    await expect(pullFromHub(NAME, options({ HF_ENDPOINT: "http://127.0.0.1:9" }))).rejects.toMatchObject({
      code: "ERR_SERVICE_UNREACHABLE",
    });
    expect(performance.now() - start).toBeLessThan(2_000);
  });

  test("a cache that cannot be written is an error of the environment", async () => {
    serveTiny();
    writeFileSync(join(root, "file"), "");
    const failure = pullFromHub(NAME, options({ HF_HUB_CACHE: join(root, "file") }));
    await expect(failure).rejects.toMatchObject({ code: "ERR_CACHE_WRITE" });
  });

  test.skipIf(!existsSync("/dev/full"))(
    "a full disk is an error of the environment, and leaves no file",
    async () => {
      const weights = serveTiny().get("model.safetensors")!;
      mkdirSync(join(folder(), "blobs"), { recursive: true });
      symlinkSync("/dev/full", join(folder(), "blobs", `${sha256(weights)}.chatspace.partial`));
      await expect(pullFromHub(NAME, options())).rejects.toMatchObject({
        code: "ERR_CACHE_WRITE",
        details: { code: "ENOSPC" },
      });
      expect(existsSync(join(folder(), "blobs", sha256(weights)))).toBe(false);
      expect(existsSync(join(snapshot(), "model.safetensors"))).toBe(false);
      expect(hub.asked.filter(({ origin }) => origin === "store")).toHaveLength(1);
    },
  );

  test("two pulls at once fetch each file once", async () => {
    serveTiny();
    const [a, b] = await Promise.all([pullFromHub(NAME, options()), pullFromHub(NAME, options())]);
    expect(a).toBe(b);
    const fetched = hub.asked.filter(({ method, path }) => method === "GET" && isWeights(path));
    expect(fetched.filter(({ origin }) => origin === "store")).toHaveLength(1);
    expect(lstatSync(join(snapshot(), "model.safetensors")).isSymbolicLink()).toBe(true);
  });
});
