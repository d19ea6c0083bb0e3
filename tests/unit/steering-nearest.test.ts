// SPDX-License-Identifier: Apache-2.0
import { expect, test } from "vitest";
import { editDistance, nearest } from "../../src/steering/nearest.ts";

test("distances of known pairs", () => {
  expect(editDistance("kitten", "sitting")).toBe(3);
  expect(editDistance("temprature", "temperature")).toBe(1);
  expect(editDistance("ab", "ba")).toBe(1);
  expect(editDistance("", "abc")).toBe(3);
});

test("the nearest names come first, and far ones not at all", () => {
  const known = ["temperature", "topK", "topP", "maxTokens"];
  expect(nearest("temprature", known)).toEqual(["temperature"]);
  expect(nearest("topk", known)[0]).toBe("topK");
  expect(nearest("zzzzzz", known)).toEqual([]);
});
