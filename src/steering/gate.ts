// SPDX-License-Identifier: Apache-2.0
// Gates: an operation that acts only where a reading of the activation is above or below a threshold.

import { misuse } from "../errors.ts";
import type { NativeGate } from "../native/contract.ts";
import { checkBoolean, checkKeys, checkNumber, checkObject, checkOneOf } from "./check.ts";
import { type DirectionContext, directionAt, givenSite } from "./placement.ts";
import type { Site } from "./sites.ts";
import { norm, type SteeringVector, zeroDirection } from "./vector.ts";

export interface SteeringGate {
  /** Where the reading is made; the operation's own site when neither is given. */
  layer?: number;
  site?: string;
  /** c, normalised here; the reading is h.c, or (h.c) / |h| with `cosine`. */
  direction: SteeringVector | Float32Array | readonly number[];
  threshold: number;
  /** Open above the threshold (default) or below it. */
  above?: boolean;
  cosine?: boolean;
  /**
   * Without a latch each token has its own reading: at the operation's own site of the row as it stands at
   * the operation's turn, at an earlier site of the same token's row after the operations there.
   * "prompt": the last prompt token's reading decides once, and the operation acts on generated rows alone.
   */
  latch?: "prompt";
}

const KEYS = ["layer", "site", "direction", "threshold", "above", "cosine", "latch"] as const;

/**
 * @param own the site of the operation
 * @throws SteeringError ERR_DIRECTION_ZERO, ERR_VECTOR_WIDTH, ERR_SITE_UNKNOWN, ERR_LAYER_RANGE; TypeError.
 */
export function compileGate(
  given: unknown,
  own: Site,
  where: string,
  context: DirectionContext,
): NativeGate | null {
  if (given === undefined) return null;
  if (given === null || typeof given !== "object")
    throw misuse(TypeError, "ERR_ARGUMENT_TYPE", where, "{ direction, threshold, ... }", given);
  const gate = checkObject(where, given) as Partial<SteeringGate>;
  checkKeys(where, gate, KEYS);
  const site = givenSite(gate, where, context) ?? own;
  const direction = directionAt(gate.direction, site, `${where}.direction`, context);
  if (norm(direction) === 0) throw zeroDirection(`${where}.direction`);
  if (gate.latch !== undefined) checkOneOf(`${where}.latch`, gate.latch, ["prompt"]);
  return {
    site: site.name === own.name ? "" : site.name,
    direction,
    threshold: checkNumber(`${where}.threshold`, gate.threshold),
    above: gate.above === undefined ? true : checkBoolean(`${where}.above`, gate.above),
    cosine: gate.cosine === undefined ? false : checkBoolean(`${where}.cosine`, gate.cosine),
    latch: gate.latch === "prompt",
  };
}
