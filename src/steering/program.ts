// SPDX-License-Identifier: Apache-2.0
// A steering program as plain data, and its compilation to what the addon takes: sites resolved, vectors
// of the right width, scopes in absolute positions, every default filled in. All mistakes are found here,
// before any arithmetic. The maths of each operation is docs/steering.md.

import { describe, misuse, SteeringError } from "../errors.ts";
import type { NativeOperation, NativeOpKind } from "../native/contract.ts";
import { checkBoolean, checkKeys, checkNumber, checkObject, checkOneOf, isNumberList } from "./check.ts";
import { compileScope, type Scope, type ScopeContext } from "./scope.ts";
import { resolveSite, type Site, type SiteReference, type SiteTable } from "./sites.ts";
import { ANY_SITE, finiteVector, norm, SteeringVector, zeroDirection } from "./vector.ts";

export type OperationKind = NativeOpKind;

/** One step of a program. With h the activation, v the vector and u = v / |v|: */
export interface SteeringOperation {
  /** Layer number, 0-based; negative counts from the end. Either this or `site`. */
  layer?: number;
  /** Site name: "layers.16", "layers.16.attn", "layers.16.mlp", "embed", "final", or a module path. */
  site?: string;
  /**
   * "add" (default): h + scale v. "cap": the projection p = h.u is clamped to [min, max].
   * "ablate": h + (scale - 1)(h.u - mean) u. "replace": (1 - amount) h + amount v.
   */
  op?: OperationKind;
  /** [width of the site]; a SteeringVector with several sites acts at each when no layer is given. */
  vector: SteeringVector | Float32Array | readonly number[];
  /** add: default 1. ablate: default 0, which removes the component; 1 leaves it. */
  scale?: number;
  /** cap: lower bound of the projection, in units of the activation. */
  min?: number;
  /** cap: upper bound of the projection. */
  max?: number;
  /** ablate: the projection that is left when scale is 0. Default 0. */
  mean?: number;
  /** replace: 0 keeps h, 1 (default) takes the vector. */
  amount?: number;
  /** Rescale the row to the length it had before this operation. */
  keepNorm?: boolean;
  /** Rows it acts on; all of them when left out. */
  scope?: Scope;
}

/** Operations in the order they act. At one site each acts on the result of the one before. */
export type SteeringProgram = readonly SteeringOperation[];

/** What a program is compiled against. */
export interface ProgramContext extends SiteTable, ScopeContext {
  modelName: string;
  /** sha256 (hex) of the weights; "" = not known. */
  weightHash: string;
  /** A vector made from other weights of the same width is an error instead of a warning. */
  strictVectors: boolean;
}

export interface CompiledProgram {
  operations: NativeOperation[];
  /** operations[i] came from program[sources[i]]. */
  sources: number[];
  warnings: string[];
}

const KEYS = [
  "layer",
  "site",
  "op",
  "vector",
  "scale",
  "min",
  "max",
  "mean",
  "amount",
  "keepNorm",
  "scope",
] as const;

const KINDS = ["add", "cap", "ablate", "replace"] as const;

/** Which of the numbers each kind of operation reads; giving another is a mistake worth naming. */
const NUMBERS: Record<OperationKind, readonly string[]> = {
  add: ["scale"],
  cap: ["min", "max"],
  ablate: ["scale", "mean"],
  replace: ["amount"],
};

/**
 * Checks a program against a model and fills in every default.
 * @throws SteeringError with ERR_LAYER_RANGE, ERR_SITE_UNKNOWN, ERR_SITE_MISSING, ERR_VECTOR_WIDTH,
 *   ERR_VECTOR_NOT_FINITE, ERR_VECTOR_MODEL, ERR_VECTOR_SITE, ERR_DIRECTION_ZERO, ERR_CAP_BOUNDS,
 *   ERR_CAP_NO_BOUND, ERR_SCOPE; TypeError / RangeError for misuse.
 */
export function compileProgram(program: unknown, context: ProgramContext): CompiledProgram {
  const compiled: CompiledProgram = { operations: [], sources: [], warnings: [] };
  if (program === undefined || program === null) return compiled;
  if (!Array.isArray(program))
    throw misuse(TypeError, "ERR_ARGUMENT_TYPE", "steering", "an array of operations", program);
  program.forEach((entry, index) => {
    for (const operation of compileOperation(entry, `steering[${index}]`, context, compiled.warnings)) {
      compiled.operations.push(operation);
      compiled.sources.push(index);
    }
  });
  return compiled;
}

function compileOperation(
  entry: unknown,
  where: string,
  context: ProgramContext,
  warnings: string[],
): NativeOperation[] {
  if (entry === undefined || entry === null)
    throw misuse(TypeError, "ERR_ARGUMENT_TYPE", where, "an operation", entry);
  const given = checkObject(where, entry) as Partial<SteeringOperation>;
  checkKeys(where, given, KEYS);
  const op = given.op === undefined ? "add" : checkOneOf(`${where}.op`, given.op, KINDS);
  rejectForeignNumbers(given, op, where);
  const numbers = readNumbers(given, op, where);
  const scope = compileScope(given.scope, `${where}.scope`, context);
  return placements(given, where, context, warnings).map(({ site, vector }) => {
    if ((op === "cap" || op === "ablate") && norm(vector) === 0) throw zeroDirection(`${where}.vector`);
    return { site: site.name, op, vector, ...numbers, ...scope };
  });
}

function rejectForeignNumbers(given: Partial<SteeringOperation>, op: OperationKind, where: string): void {
  for (const key of ["scale", "min", "max", "mean", "amount"] as const) {
    if (given[key] === undefined || NUMBERS[op].includes(key)) continue;
    throw Object.assign(new TypeError(`${where}: "${op}" takes ${NUMBERS[op].join(" and ")}, got ${key}`), {
      code: "ERR_OPTION_UNKNOWN",
      details: { where, op, option: key, known: NUMBERS[op] },
    });
  }
}

function readNumbers(given: Partial<SteeringOperation>, op: OperationKind, where: string) {
  const number = (key: "scale" | "mean" | "amount", otherwise: number) =>
    given[key] === undefined ? otherwise : checkNumber(`${where}.${key}`, given[key]);
  const keepNorm = given.keepNorm === undefined ? false : checkBoolean(`${where}.keepNorm`, given.keepNorm);
  const bounds = op === "cap" ? capBounds(given, where) : { min: -Infinity, max: Infinity };
  return {
    scale: number("scale", op === "ablate" ? 0 : 1),
    ...bounds,
    mean: number("mean", 0),
    amount: number("amount", 1),
    keepNorm,
  };
}

function capBounds(given: Partial<SteeringOperation>, where: string): { min: number; max: number } {
  const bound = (key: "min" | "max", open: number) => {
    const value = given[key];
    if (value === undefined || value === null) return open;
    if (typeof value !== "number" || Number.isNaN(value))
      throw misuse(TypeError, "ERR_ARGUMENT_TYPE", `${where}.${key}`, "a number", value);
    return value;
  };
  const [min, max] = [bound("min", -Infinity), bound("max", Infinity)];
  if (min === -Infinity && max === Infinity)
    throw new SteeringError(
      "ERR_CAP_NO_BOUND",
      `${where}: expected "cap" to have min, max or both, got neither`,
      {
        details: { where },
        remedies: ["give the range the projection may keep, for example { min: -1, max: 1 }"],
      },
    );
  // min = +Infinity or max = -Infinity would send every row to infinity.
  if (min > max || min === Infinity || max === -Infinity)
    throw new SteeringError(
      "ERR_CAP_BOUNDS",
      `${where}: expected min <= max, got min ${min} and max ${max}`,
      {
        details: { where, min, max },
      },
    );
  return { min, max };
}

/** Where an operation acts, with the direction for each place. */
function placements(
  given: Partial<SteeringOperation>,
  where: string,
  context: ProgramContext,
  warnings: string[],
): { site: Site; vector: Float32Array }[] {
  if (given.layer !== undefined && given.site !== undefined)
    throw misuse(TypeError, "ERR_ARGUMENT_TYPE", where, "either layer or site", "both");
  if (given.layer !== undefined && typeof given.layer !== "number")
    throw misuse(TypeError, "ERR_ARGUMENT_TYPE", `${where}.layer`, "a layer number", given.layer);
  const reference: SiteReference | undefined = given.layer ?? given.site;
  const place = given.layer !== undefined ? `${where}.layer` : `${where}.site`;
  const site = reference === undefined ? undefined : resolveSite(reference, context, place);
  const value: unknown = given.vector;
  if (value instanceof SteeringVector) {
    checkVectorModel(value, where, context, warnings);
    const names = site ? [site.name] : value.sites;
    if (!site && names.includes(ANY_SITE)) throw missingSite(where);
    return names.map((name) => {
      const target = site ?? resolveSite(name, context, `${where}.vector`);
      return { site: target, vector: fitted(value.at(name), target, `${where}.vector`) };
    });
  }
  const numbers = isNumberList(value);
  if (!numbers)
    throw misuse(TypeError, "ERR_ARGUMENT_TYPE", `${where}.vector`, "a SteeringVector or numbers", value);
  if (!site) throw missingSite(where);
  return [{ site, vector: fitted(finiteVector(`${where}.vector`, numbers), site, `${where}.vector`) }];
}

function fitted(vector: Float32Array, site: Site, where: string): Float32Array {
  if (vector.length === site.width) return vector;
  throw new SteeringError(
    "ERR_VECTOR_WIDTH",
    `${where}: expected ${site.width} elements, the width of ${site.name}, got ${vector.length}`,
    { details: { where, site: site.name, expected: site.width, got: vector.length } },
  );
}

function missingSite(where: string): SteeringError {
  return new SteeringError("ERR_SITE_MISSING", `${where}: expected a layer or a site, got neither`, {
    details: { where },
    remedies: ["say where it acts: { layer: 16 } or { site: 'layers.16.mlp' }"],
  });
}

function checkVectorModel(
  vector: SteeringVector,
  where: string,
  context: ProgramContext,
  warnings: string[],
): void {
  const made = vector.model;
  const hidden = context.sites.find((site) => site.name === "layers.0")?.width;
  const label = vector.name === "" ? "the vector" : `vector ${describe(vector.name)}`;
  const onLayers = vector.layers.length === vector.sites.length;
  if (made.name !== "" && hidden !== undefined && onLayers && made.width !== hidden)
    throw new SteeringError(
      "ERR_VECTOR_MODEL",
      `${where}.vector: expected a vector made for a model of width ${hidden}, got ${label} made for ` +
        `${describe(made.name)} of width ${made.width}`,
      { details: { where, model: context.modelName, width: hidden, madeFor: made } },
    );
  if (made.weightHash === "" || context.weightHash === "" || made.weightHash === context.weightHash) return;
  const difference =
    `${label} was made from the weights of ${describe(made.name)} (${made.weightHash.slice(0, 12)}), ` +
    `this is ${describe(context.modelName)} (${context.weightHash.slice(0, 12)})`;
  if (!context.strictVectors) {
    if (!warnings.includes(difference)) warnings.push(difference);
    return;
  }
  throw new SteeringError("ERR_VECTOR_MODEL", `${where}.vector: ${difference}`, {
    details: { where, expected: context.weightHash, got: made.weightHash },
    remedies: ["load the model with strictVectors: false to make this a warning"],
  });
}
