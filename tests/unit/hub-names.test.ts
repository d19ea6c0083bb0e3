// SPDX-License-Identifier: Apache-2.0
// What is a hub's name and what a path; which files of a repository are taken; which folder is meant.

import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { chooseFiles, shardsOf } from "../../src/model/hub/choose.ts";
import { checkRevision, formatHubName, hubPlace, parseHubName } from "../../src/model/hub/place.ts";

describe("names", () => {
  test.each([
    ["org/name", { repository: "org/name", revision: "main", file: null }],
    ["Qwen/Qwen2.5-0.5B", { repository: "Qwen/Qwen2.5-0.5B", revision: "main", file: null }],
    ["org/name@v1.0", { repository: "org/name", revision: "v1.0", file: null }],
    ["org/name@refs/pr/3:Q8_0", { repository: "org/name", revision: "refs/pr/3", file: "Q8_0" }],
    ["org/name:sub/x.gguf", { repository: "org/name", revision: "main", file: "sub/x.gguf" }],
  ])("%s is read and written", (text, name) => {
    expect(parseHubName(text)).toEqual(name);
    expect(formatHubName(name)).toBe(text);
  });

  test.each([
    "name",
    "./org/name",
    "/org/name",
    "../name",
    "models/x.pt",
    "a/b/c",
    "x/y.gguf",
    "a/..",
    "C:\\m",
  ])("%s is a path", (text) => expect(parseHubName(text)).toBeNull());

  test.each(["../main", "a/../b", "/main", "", "a//b", "a b"])("revision %j is refused", (revision) =>
    expect(() => checkRevision(revision)).toThrowError(
      expect.objectContaining({ code: "ERR_ARGUMENT_RANGE" }),
    ),
  );
});

describe("files", () => {
  const gguf = [
    "README.md",
    "m-Q4_K.gguf",
    "m-Q4_K_M.gguf",
    "m-Q8_0.gguf",
    "mmproj-m.gguf",
    "big-00001-of-00002.gguf",
    "big-00002-of-00002.gguf",
  ];

  test("safetensors before torch files before GGUF; tokenizer files come along", () => {
    const all = [
      "config.json",
      "tokenizer.json",
      "pytorch_model.bin",
      "model.safetensors",
      "x.gguf",
      "README.md",
    ];
    expect(chooseFiles("r", all, null)).toEqual({
      kind: "folder",
      files: ["config.json", "tokenizer.json", "model.safetensors"],
      index: null,
    });
    expect(chooseFiles("r", ["config.json", "model.safetensors.index.json"], null)).toMatchObject({
      index: "model.safetensors.index.json",
    });
    expect(chooseFiles("r", ["config.json", "x.gguf"], null)).toEqual({ kind: "gguf", file: "x.gguf" });
  });

  test.each([
    ["m-Q8_0.gguf", "m-Q8_0.gguf"],
    ["q8_0", "m-Q8_0.gguf"],
    ["Q4_K", "m-Q4_K.gguf"],
    ["Q4_K_M", "m-Q4_K_M.gguf"],
    ["big", "big-00001-of-00002.gguf"],
  ])("%s names one GGUF file", (wanted, file) =>
    expect(chooseFiles("r", gguf, wanted)).toEqual({ kind: "gguf", file }),
  );

  test.each([
    ["several and none named", null, /named; there are\n {2}big-00001-of-00002\.gguf\n {2}m-Q4_K\.gguf/],
    ["a part that fits several", "Q4", /"Q4" is a part of; there are\n {2}m-Q4_K\.gguf\n {2}m-Q4_K_M\.gguf/],
    ["a projector", "mmproj", /there are/],
    ["a later part of a split file", "00002-of-00002", /there are/],
  ])("%s: the list is shown", (_, wanted, message) =>
    expect(() => chooseFiles("r", gguf, wanted)).toThrowError(
      expect.objectContaining({ code: "ERR_HUB_FILE", message: expect.stringMatching(message) }),
    ),
  );

  test.each(["[]", "not JSON", '{"weight_map":{"a":"../../etc/passwd"}}', '{"weight_map":{}}'])(
    "an index %s is refused",
    (text) =>
      expect(() => shardsOf("r", text)).toThrowError(expect.objectContaining({ code: "ERR_HUB_FILE" })),
  );
});

test("the cache folder is the one of the variables", () => {
  expect(hubPlace({ HF_HUB_CACHE: "/c", HF_HOME: "/h" }).folder).toBe("/c");
  expect(hubPlace({ HF_HOME: "/h" }).folder).toBe(join("/h", "hub"));
  expect(hubPlace({ XDG_CACHE_HOME: "/x" }).folder).toBe(join("/x", "huggingface", "hub"));
  expect(hubPlace({ HF_ENDPOINT: "https://mirror.example//" })).toMatchObject({
    endpoint: "https://mirror.example",
    token: null,
    offline: false,
  });
});
