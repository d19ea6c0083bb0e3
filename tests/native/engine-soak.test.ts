// SPDX-License-Identifier: Apache-2.0
import { test } from "vitest";
import { soak } from "./engine-soak.ts";

test("thousands of requests of mixed programs: no cross-talk, flat memory", { timeout: 120_000 }, () =>
  soak(2500),
);
