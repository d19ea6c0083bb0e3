// SPDX-License-Identifier: Apache-2.0
// A steering program as plain data, and its compilation to what the addon takes: sites resolved, vectors
// of the right width, scopes in absolute positions, every default filled in. All mistakes are found here,
// before any arithmetic. The maths of each operation is docs/steering.md.

import { misuse } from "../errors.ts";
import type { NativeOperation, NativeOpKind } from "../native/contract.ts";
import { checkKeys, checkObject, checkOneOf } from "./check.ts";
import { compileGate, type SteeringGate } from "./gate.ts";
import { type OperationNumbers, readNumbers, rejectForeignNumbers } from "./operation-numbers.ts";
import { type DirectionContext, directionAt, givenSite, missingSite, placements } from "./placement.ts";
import { compileSchedule, type StrengthSchedule } from "./schedule.ts";
import { compileScope, type Scope, type ScopeContext } from "./scope.ts";
import type { Site } from "./sites.ts";
import { compileSubspace } from "./subspace.ts";
import { norm, type SteeringVector, zeroDirection } from "./vector.ts";

export type OperationKind = NativeOpKind;

/** One step of a program. With h the activation, v the vector and u = v / |v|: */
export interface SteeringOperation extends OperationNumbers {
  /** Layer number, 0-based; negative counts from the end. Either this or `site`. */
  layer?: number;
  /** Site name: "layers.16", "layers.16.attn", "layers.16.mlp", "embed", "final", or a module path. */
  site?: string;
  /**
   * "add" (default): h + scale v. "cap": the projection p = h.u is clamped to [min, max].
   * "ablate": h + (scale - 1)(h.u - mean) u. "replace": (1 - amount) h + amount v.
   * "rotate": h turned by `angle` towards u in the plane of h and u, its norm kept.
   * "addNorm": h + scale |h| u, the step at most `limit` |h|. "swap": h + (h.u)(w - u), w = to / |to|.
   * "subspace": h + sum_r (push_r + (keep_r - 1)(h.b_r - mean_r)) b_r for the orthonormal rows b_r of vector.
   */
  op?: OperationKind;
  /**
   * [width of the site]; a SteeringVector with several sites acts at each when no layer is given.
   * subspace: a list of 1 to 64 orthonormal rows.
   */
  vector: SteeringVector | Float32Array | readonly number[] | readonly (Float32Array | readonly number[])[];
  /** add, addNorm: default 1. ablate: default 0, which removes the component; 1 leaves it. */
  scale?: number;
  /** cap: lower bound of the projection, in units of the activation. */
  min?: number;
  /** cap: upper bound of the projection. */
  max?: number;
  /** ablate, subspace: the projection that is left when all else is removed. Default 0. */
  mean?: number | readonly number[];
  /** replace: 0 keeps h, 1 (default) takes the vector. */
  amount?: number;
  /** rotate: radians; negative turns away. */
  angle?: number;
  /** addNorm: the longest step, as a fraction of |h|. Default no limit. */
  limit?: number;
  /** swap: the direction that takes the component over. */
  to?: SteeringVector | Float32Array | readonly number[];
  /** subspace: what is added along each row. Default 0. */
  push?: readonly number[];
  /** subspace: the part of each projection that is kept. Default 1. */
  keep?: number | readonly number[];
  /** Rescale the row to the length it had before this operation. */
  keepNorm?: boolean;
  /** Rows it acts on; all of them when left out. */
  scope?: Scope;
  /** Factors on the change it makes, by generated token. */
  schedule?: StrengthSchedule;
  /** Acts only where this reading is above or below a threshold. */
  gate?: SteeringGate;
}

/** Operations in the order they act. At one site each acts on the result of the one before. */
export type SteeringProgram = readonly SteeringOperation[];

/** What a program is compiled against. */
export interface ProgramContext extends Omit<DirectionContext, "warnings">, ScopeContext {}

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
  "angle",
  "limit",
  "to",
  "push",
  "keep",
  "keepNorm",
  "scope",
  "schedule",
  "gate",
] as const;

const KINDS = ["add", "cap", "ablate", "replace", "rotate", "addNorm", "swap", "subspace"] as const;

/** Kinds whose vector is a direction and must have a length. */
const DIRECTED: readonly OperationKind[] = ["cap", "ablate", "rotate", "addNorm", "swap"];

/**
 * Checks a program against a model and fills in every default.
 * @throws SteeringError with ERR_LAYER_RANGE, ERR_SITE_UNKNOWN, ERR_SITE_MISSING, ERR_VECTOR_WIDTH,
 *   ERR_VECTOR_NOT_FINITE, ERR_VECTOR_MODEL, ERR_VECTOR_SITE, ERR_DIRECTION_ZERO, ERR_CAP_BOUNDS,
 *   ERR_CAP_NO_BOUND, ERR_SUBSPACE_RANK, ERR_SUBSPACE_BASIS, ERR_SCOPE; TypeError / RangeError for misuse.
 */
export function compileProgram(program: unknown, context: ProgramContext): CompiledProgram {
  const compiled: CompiledProgram = { operations: [], sources: [], warnings: [] };
  if (program === undefined || program === null) return compiled;
  if (!Array.isArray(program))
    throw misuse(TypeError, "ERR_ARGUMENT_TYPE", "steering", "an array of operations", program);
  const all = { ...context, warnings: compiled.warnings };
  program.forEach((entry, index) => {
    for (const operation of compileOperation(entry, `steering[${index}]`, all)) {
      compiled.operations.push(operation);
      compiled.sources.push(index);
    }
  });
  return compiled;
}

function compileOperation(
  entry: unknown,
  where: string,
  context: DirectionContext & ScopeContext,
): NativeOperation[] {
  if (entry === undefined || entry === null)
    throw misuse(TypeError, "ERR_ARGUMENT_TYPE", where, "an operation", entry);
  const given = checkObject(where, entry) as Partial<SteeringOperation>;
  checkKeys(where, given, KEYS);
  const op = given.op === undefined ? "add" : checkOneOf(`${where}.op`, given.op, KINDS);
  rejectForeignNumbers(given, op, where);
  const numbers = readNumbers(given, op, where);
  const scope = compileScope(given.scope, `${where}.scope`, context);
  const schedule = compileSchedule(given.schedule, `${where}.schedule`);
  const places = op === "subspace" ? subspacePlace(given, where, context) : placements(given, where, context);
  return places.map(({ site, vector, second }: Place) => {
    if (DIRECTED.includes(op) && norm(vector) === 0) throw zeroDirection(`${where}.vector`);
    return {
      site: site.name,
      op,
      vector,
      second: second ?? (op === "swap" ? swapTarget(given, site, where, context) : null),
      ...numbers,
      ...scope,
      schedule,
      gate: compileGate(given.gate, site, `${where}.gate`, context),
    };
  });
}

interface Place {
  site: Site;
  vector: Float32Array;
  second?: Float32Array;
}

function subspacePlace(given: Partial<SteeringOperation>, where: string, context: DirectionContext): Place[] {
  const site = givenSite(given, where, context);
  if (!site) throw missingSite(where);
  return [{ site, ...compileSubspace(given, site, where) }];
}

function swapTarget(
  given: Partial<SteeringOperation>,
  site: Site,
  where: string,
  context: DirectionContext,
): Float32Array {
  const to = directionAt(given.to, site, `${where}.to`, context);
  if (norm(to) === 0) throw zeroDirection(`${where}.to`);
  return to;
}
