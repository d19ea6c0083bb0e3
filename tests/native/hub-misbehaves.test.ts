// SPDX-License-Identifier: Apache-2.0
// Pulling models from a hub that cuts, lies, refuses and redirects: what arrives is whole and right, or
// nothing has its name.
import { existsSync, lstatSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { parseHubName } from "../../src/model/hub/place.ts";
import { pullFromHub } from "../../src/model/hub/pull.ts";
import { end, serve, sha256, TOKEN } from "../unit/hub-server.ts";

import {
  folder,
  hub,
  LLAMA,
  NAME,
  nothingNamed,
  opened,
  options,
  root,
  serveTiny,
  snapshot,
  tiny,
} from "./hub-world.ts";

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
