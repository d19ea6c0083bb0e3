// SPDX-License-Identifier: Apache-2.0
// A stream of captures, joined: to be compared with the same capture held to the end.
import { expect } from "vitest";
import type { Capture } from "../../src/model/results.ts";

/** Joins the chunks of a stream, and refuses rows out of order or twice. */
export class Joined {
  readonly sites = new Map<string, { positions: number[]; data: number[]; indices: number[] }>();
  chunks = 0;
  readonly add = (rows: Record<string, Capture>): void => {
    this.chunks++;
    for (const [site, { positions, data, indices, shape }] of Object.entries(rows)) {
      expect(data.length).toBe(shape[0] * shape[1]);
      const all = this.sites.get(site) ?? { positions: [], data: [], indices: [] };
      all.positions.push(...positions);
      all.data.push(...data);
      all.indices.push(...(indices ?? []));
      this.sites.set(site, all);
    }
  };
  expectEqual(whole: Record<string, Capture>, label: string): void {
    expect([...this.sites.keys()].sort(), label).toEqual(Object.keys(whole).sort());
    let worst = 0;
    for (const [site, capture] of Object.entries(whole)) {
      const got = this.sites.get(site)!;
      expect(got.positions, `${label} ${site}`).toEqual([...capture.positions]);
      expect(got.indices).toEqual([...(capture.indices ?? [])]);
      const [a, b] = [
        new Uint32Array(Float32Array.from(got.data).buffer),
        new Uint32Array(capture.data.slice().buffer),
      ];
      expect(a.length).toBe(b.length);
      a.forEach((bits, i) => {
        if (bits !== b[i]) worst = Math.max(worst, Math.abs(got.data[i]! - capture.data[i]!) || 1);
      });
    }
    expect(worst, `${label}: worst deviation, bits must be equal`).toBe(0);
  }
}
