// SPDX-License-Identifier: Apache-2.0
// Names of the places in a decoder that can be steered or read. Layer numbers are a short form:
// 16 is "layers.16", the residual stream after decoder layer 16 (0-based); -1 is the last layer.

import { describe, misuse, SteeringError } from "../errors.ts";
import { nearest, suggestion } from "./nearest.ts";

/** A layer number (negative counts from the end) or a site name. */
export type SiteReference = number | string;

export interface Site {
  /** Canonical name: "layers.16", "layers.16.attn", "embed", "final", or a submodule path. */
  name: string;
  /** Path of the module in the archive. */
  path: string;
  /** Elements of one row of the activation. */
  width: number;
}

/** The sites of one loaded model. */
export interface SiteTable {
  layers: number;
  sites: readonly Site[];
}

/** Canonical name of a layer's output. */
export function layerSite(layer: number): string {
  return `layers.${layer}`;
}

/** Layer number of "layers.N", or undefined for every other site. */
export function siteLayer(site: string): number | undefined {
  const match = /^layers\.(0|[1-9]\d*)$/.exec(site);
  return match ? Number(match[1]) : undefined;
}

/**
 * Finds a site by layer number, canonical name or module path.
 * @throws SteeringError ERR_LAYER_RANGE, ERR_SITE_UNKNOWN (with the nearest names); TypeError.
 */
export function resolveSite(reference: unknown, table: SiteTable, where: string): Site {
  if (typeof reference === "number") {
    if (!Number.isInteger(reference))
      throw misuse(TypeError, "ERR_ARGUMENT_TYPE", where, "an integer layer number", reference);
    return siteByName(layerSite(resolveLayer(reference, table.layers, where)), table, where);
  }
  if (typeof reference !== "string")
    throw misuse(TypeError, "ERR_ARGUMENT_TYPE", where, "a layer number or a site name", reference);
  return siteByName(reference, table, where);
}

/** A layer number within [0, layers), negative ones counted from the end (ERR_LAYER_RANGE). */
export function resolveLayer(layer: number, layers: number, where: string): number {
  const index = layer < 0 ? layers + layer : layer;
  if (index >= 0 && index < layers) return index;
  throw new SteeringError(
    "ERR_LAYER_RANGE",
    `${where}: expected a layer from 0 to ${layers - 1} (or -${layers} to -1 from the end), got ${layer}`,
    {
      details: { where, layers, got: layer },
      remedies: [`this model has ${layers} layers, numbered from 0`],
    },
  );
}

function siteByName(name: string, table: SiteTable, where: string): Site {
  const found =
    table.sites.find((site) => site.name === name) ?? table.sites.find((site) => site.path === name);
  if (found) return found;
  // A layer-like name gets the layer error, which says more than "unknown".
  const match = /^layers\.(-?\d+)(\..+)?$/.exec(name);
  if (match) {
    const layer = resolveLayer(Number(match[1]), table.layers, where);
    const canonical = `layers.${layer}${match[2] ?? ""}`;
    const counted = table.sites.find((site) => site.name === canonical);
    if (counted) return counted;
  }
  const names = table.sites.map((site) => site.name);
  const near = nearest(name, names);
  throw new SteeringError(
    "ERR_SITE_UNKNOWN",
    `${where}: expected a site of this model, got ${describe(name)}${suggestion(near)}`,
    {
      details: { where, got: name, nearest: near },
      remedies: [
        "`chatspace-steer inspect MODEL --sites` lists every site",
        "a layer number is a site too: 16",
      ],
    },
  );
}
