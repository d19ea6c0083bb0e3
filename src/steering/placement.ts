// SPDX-License-Identifier: Apache-2.0
// Where an operation acts and with which direction there: sites from layers, names and vectors that hold
// directions of several sites; widths and origins of vectors checked.

import { describe, misuse, SteeringError } from "../errors.ts";
import { isNumberList } from "./check.ts";
import { resolveSite, type Site, type SiteReference, type SiteTable } from "./sites.ts";
import { ANY_SITE, finiteVector, SteeringVector } from "./vector.ts";

/** What vectors are checked against. */
export interface DirectionContext extends SiteTable {
  modelName: string;
  /** sha256 (hex) of the weights; "" = not known. */
  weightHash: string;
  /** A vector made from other weights of the same width is an error instead of a warning. */
  strictVectors: boolean;
  /** Takes what is worth knowing, each thing once. */
  warnings: string[];
}

/** The site of { layer } or { site }, or undefined when neither is given. */
export function givenSite(
  given: { layer?: unknown; site?: unknown },
  where: string,
  context: SiteTable,
): Site | undefined {
  if (given.layer !== undefined && given.site !== undefined)
    throw misuse(TypeError, "ERR_ARGUMENT_TYPE", where, "either layer or site", "both");
  if (given.layer !== undefined && typeof given.layer !== "number")
    throw misuse(TypeError, "ERR_ARGUMENT_TYPE", `${where}.layer`, "a layer number", given.layer);
  const reference = (given.layer ?? given.site) as SiteReference | undefined;
  if (reference === undefined) return undefined;
  return resolveSite(reference, context, given.layer !== undefined ? `${where}.layer` : `${where}.site`);
}

/** Every place of an operation, with its direction there: one, or each site of a vector of several. */
export function placements(
  given: { layer?: unknown; site?: unknown; vector?: unknown },
  where: string,
  context: DirectionContext,
): { site: Site; vector: Float32Array }[] {
  const site = givenSite(given, where, context);
  const { vector } = given;
  if (vector instanceof SteeringVector && !site) {
    if (vector.sites.includes(ANY_SITE)) throw missingSite(where);
    checkVectorModel(vector, `${where}.vector`, context);
    return vector.sites.map((name) => {
      const target = resolveSite(name, context, `${where}.vector`);
      return { site: target, vector: fitted(vector.at(name), target, `${where}.vector`) };
    });
  }
  if (!(vector instanceof SteeringVector) && !isNumberList(vector))
    throw misuse(TypeError, "ERR_ARGUMENT_TYPE", `${where}.vector`, "a SteeringVector or numbers", vector);
  if (!site) throw missingSite(where);
  return [{ site, vector: directionAt(vector, site, `${where}.vector`, context) }];
}

/** The direction a vector has at a site, or the numbers given. */
export function directionAt(
  value: unknown,
  site: Site,
  where: string,
  context: DirectionContext,
): Float32Array {
  if (value instanceof SteeringVector) {
    checkVectorModel(value, where, context);
    return fitted(value.at(site.name), site, where);
  }
  const numbers = isNumberList(value);
  if (!numbers) throw misuse(TypeError, "ERR_ARGUMENT_TYPE", where, "a SteeringVector or numbers", value);
  return fitted(finiteVector(where, numbers), site, where);
}

export function fitted(vector: Float32Array, site: Site, where: string): Float32Array {
  if (vector.length === site.width) return vector;
  throw new SteeringError(
    "ERR_VECTOR_WIDTH",
    `${where}: expected ${site.width} elements, the width of ${site.name}, got ${vector.length}`,
    { details: { where, site: site.name, expected: site.width, got: vector.length } },
  );
}

export function missingSite(where: string): SteeringError {
  return new SteeringError("ERR_SITE_MISSING", `${where}: expected a layer or a site, got neither`, {
    details: { where },
    remedies: ["say where it acts: { layer: 16 } or { site: 'layers.16.mlp' }"],
  });
}

function checkVectorModel(vector: SteeringVector, where: string, context: DirectionContext): void {
  const made = vector.model;
  const hidden = context.sites.find((site) => site.name === "layers.0")?.width;
  const label = vector.name === "" ? "the vector" : `vector ${describe(vector.name)}`;
  const onLayers = vector.layers.length === vector.sites.length;
  if (made.name !== "" && hidden !== undefined && onLayers && made.width !== hidden)
    throw new SteeringError(
      "ERR_VECTOR_MODEL",
      `${where}: expected a vector made for a model of width ${hidden}, got ${label} made for ` +
        `${describe(made.name)} of width ${made.width}`,
      { details: { where, model: context.modelName, width: hidden, madeFor: made } },
    );
  if (made.weightHash === "" || context.weightHash === "" || made.weightHash === context.weightHash) return;
  const difference =
    `${label} was made from the weights of ${describe(made.name)} (${made.weightHash.slice(0, 12)}), ` +
    `this is ${describe(context.modelName)} (${context.weightHash.slice(0, 12)})`;
  if (!context.strictVectors) {
    if (!context.warnings.includes(difference)) context.warnings.push(difference);
    return;
  }
  throw new SteeringError("ERR_VECTOR_MODEL", `${where}: ${difference}`, {
    details: { where, expected: context.weightHash, got: made.weightHash },
    remedies: ["load the model with strictVectors: false to make this a warning"],
  });
}
