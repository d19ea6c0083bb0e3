// SPDX-License-Identifier: Apache-2.0
// Probes: named directions read at every token, so that one can watch a model while it writes.

import { misuse } from "../errors.ts";
import type { NativeProbe } from "../native/contract.ts";
import { checkBoolean, checkKeys, checkObject, checkString } from "../steering/check.ts";
import { type DirectionContext, directionAt, givenSite, missingSite } from "../steering/placement.ts";
import { norm, type SteeringVector, zeroDirection } from "../steering/vector.ts";

export interface Probe {
  /** Key of the answer; each name once. */
  name: string;
  /** Layer number, or `site`: where h is read, after the operations there. */
  layer?: number;
  site?: string;
  /** [width of the site]: the value is h.direction, as given (a probe's weights may be used as they are). */
  direction: SteeringVector | Float32Array | readonly number[];
  /** (h.d) / (|h| |d|) instead. */
  cosine?: boolean;
}

/** @throws SteeringError ERR_SITE_MISSING, ERR_VECTOR_WIDTH, ERR_DIRECTION_ZERO, ...; TypeError. */
export function compileProbes(
  given: unknown,
  context: DirectionContext,
): { names: string[]; native: NativeProbe[] } {
  if (given === undefined) return { names: [], native: [] };
  if (!Array.isArray(given))
    throw misuse(TypeError, "ERR_ARGUMENT_TYPE", "probes", "a list of probes", given);
  const names: string[] = [];
  const native = given.map((entry: unknown, i): NativeProbe => {
    const where = `probes[${i}]`;
    const probe = checkObject(where, entry) as Partial<Probe>;
    checkKeys(where, probe, ["name", "layer", "site", "direction", "cosine"]);
    const name = checkString(`${where}.name`, probe.name);
    if (names.includes(name))
      throw misuse(TypeError, "ERR_ARGUMENT_TYPE", `${where}.name`, "a name used once", name);
    names.push(name);
    const site = givenSite(probe, where, context);
    if (!site) throw missingSite(where);
    const direction = directionAt(probe.direction, site, `${where}.direction`, context);
    const cosine = probe.cosine === undefined ? false : checkBoolean(`${where}.cosine`, probe.cosine);
    const length = norm(direction);
    if (length === 0) throw zeroDirection(`${where}.direction`);
    return { site: site.name, direction: cosine ? direction.map((x) => x / length) : direction, cosine };
  });
  return { names, native };
}
