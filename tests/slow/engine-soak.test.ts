// SPDX-License-Identifier: Apache-2.0
import { test } from "vitest";
import { soak } from "../native/engine-soak.ts";

test("twenty thousand requests of mixed programs: no cross-talk, flat memory", () => soak(20_000));
