// SPDX-License-Identifier: Apache-2.0
// What to read while the model runs: sites, rows, pooling.

import { misuse } from "../errors.ts";
import type { NativeCapture } from "../native/contract.ts";
import { checkKeys, checkObject, checkOneOf } from "../steering/check.ts";
import { compilePhase, compilePositions, type Phase, type Position } from "../steering/scope.ts";
import { resolveSite, type SiteReference, type SiteTable } from "../steering/sites.ts";
import { type CaptureReduction, compileReduction } from "./capture-reduction.ts";

export interface CaptureOptions {
  /** Layer numbers and site names; one answer each. */
  sites: readonly SiteReference[];
  /** Default "all": prompt rows and generated rows. */
  phase?: Phase;
  /** Positions and [start, end) ranges; negative from the end of the prompt. Default all. */
  positions?: readonly Position[];
  /** "none" (default) gives every row; the others one row over the selected ones. */
  pool?: "none" | "mean" | "last" | "first";
  /** Numbers to keep of each row, computed on the device, instead of the whole row. */
  reduce?: CaptureReduction;
}

const POOLS = ["none", "mean", "last", "first"] as const;

/** @throws SteeringError ERR_LAYER_RANGE, ERR_SITE_UNKNOWN, ERR_SCOPE; TypeError / RangeError. */
export function compileCaptures(
  given: CaptureOptions | undefined,
  table: SiteTable,
  promptLength: number,
): NativeCapture[] {
  if (given === undefined) return [];
  const options = checkObject("capture", given) as Partial<CaptureOptions>;
  checkKeys("capture", options, ["sites", "phase", "positions", "pool", "reduce"]);
  if (!Array.isArray(options.sites) || options.sites.length === 0)
    throw misuse(
      TypeError,
      "ERR_ARGUMENT_TYPE",
      "capture.sites",
      "at least one layer or site",
      options.sites,
    );
  const phase = compilePhase(options.phase ?? "all", "capture.phase");
  const pool = checkOneOf("capture.pool", options.pool ?? "none", POOLS);
  const positions = compilePositions(options.positions, "capture.positions", promptLength);
  // Asked for twice is read once: both names would be the same key of the answer.
  const sites = new Set(options.sites.map((site, i) => resolveSite(site, table, `capture.sites[${i}]`)));
  return [...sites].map((site) => ({
    site: site.name,
    phase,
    positions,
    pool,
    reduce: compileReduction(options.reduce, site, pool),
  }));
}
