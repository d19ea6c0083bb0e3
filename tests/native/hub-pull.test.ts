// SPDX-License-Identifier: Apache-2.0
// Pulling models from a hub: what arrives is whole and right, is asked for once, and lies where Python's client
// looks for it.
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { basename, join } from "node:path";
import { describe, expect, test } from "vitest";
import { readSafetensors, writeSafetensors } from "../../src/formats/safetensors.ts";
import { hubPlace, parseHubName } from "../../src/model/hub/place.ts";
import { findOrPull, pullFromHub } from "../../src/model/hub/pull.ts";
import { listModels, removeModel } from "../../src/model/store.ts";
import { gitBlob, sha256 } from "../unit/hub-server.ts";
import { writeGgufModel, writeGgufParts } from "./gguf-model.ts";
import { shared } from "./golden.ts";

import {
  COMMIT,
  folder,
  hub,
  LATER,
  LLAMA,
  NAME,
  names,
  opened,
  options,
  root,
  serveTiny,
  snapshot,
  tiny,
} from "./hub-world.ts";

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
