// SPDX-License-Identifier: Apache-2.0
// A steering vector as a value: one direction per site, what it was made from, and the algebra on it.
// Immutable; every operation gives a new one. Files are read and written by vector-files.ts.

import { misuse, SteeringError } from "../errors.ts";
import { checkKeys, isNumberList } from "./check.ts";
import { layerSite, type SiteReference, siteLayer } from "./sites.ts";

/** The model a vector was made for; empty strings and 0 where it is not known. */
export interface VectorModel {
  name: string;
  /** Elements of one direction. */
  width: number;
  /** sha256 (hex) of the model's weights, as in `SteerModel.info.weightHash`. */
  weightHash: string;
}

/** Site name of a direction that was saved without one; it fits whatever site it is asked for. */
export const ANY_SITE = "*";

export interface SteeringVectorInit {
  name?: string;
  /**
   * One direction ([width] numbers) alone, or directions by layer number or site name.
   * A direction alone belongs to no site; the operation that uses it must name one.
   */
  directions:
    | ArrayLike<number>
    | ReadonlyMap<SiteReference, ArrayLike<number>>
    | Record<string, ArrayLike<number>>;
  model?: Partial<VectorModel>;
  /** How it was made, in a sentence. */
  method?: string;
  /** Anything else worth keeping with it; strings only, saved in the file's metadata. */
  notes?: Record<string, string>;
}

/**
 * Directions in a model's activation space.
 *
 * @throws SteeringError ERR_VECTOR_NOT_FINITE when an element is NaN or infinite, ERR_VECTOR_WIDTH when
 *   the directions differ in length; TypeError when there is none.
 */
export class SteeringVector {
  readonly name: string;
  readonly model: Readonly<VectorModel>;
  readonly method: string;
  readonly notes: Readonly<Record<string, string>>;
  readonly #directions: ReadonlyMap<string, Float32Array>;

  constructor(init: SteeringVectorInit) {
    checkKeys("SteeringVector", init, ["name", "directions", "model", "method", "notes"]);
    this.#directions = copyDirections(init.directions);
    const width = this.#directions.values().next().value?.length ?? 0;
    this.name = init.name ?? "";
    this.model = Object.freeze({
      name: init.model?.name ?? "",
      width,
      weightHash: init.model?.weightHash ?? "",
    });
    this.method = init.method ?? "";
    this.notes = Object.freeze({ ...init.notes });
    if (init.model?.width !== undefined && init.model.width !== 0 && init.model.width !== width)
      throw new SteeringError(
        "ERR_VECTOR_WIDTH",
        `SteeringVector: expected directions of the model's width ${init.model.width}, got ${width}`,
        { details: { expected: init.model.width, got: width } },
      );
    Object.freeze(this);
  }

  /** Elements of each direction. */
  get width(): number {
    return this.model.width;
  }

  /** Site names in the order given; `["*"]` for a direction that belongs to none. */
  get sites(): string[] {
    return [...this.#directions.keys()];
  }

  /** Layer numbers among the sites, in the order given. */
  get layers(): number[] {
    return this.sites.map(siteLayer).filter((layer) => layer !== undefined);
  }

  /**
   * A copy of the direction at a layer or site, [width].
   * @throws SteeringError ERR_VECTOR_SITE when the vector has none there.
   */
  at(site: SiteReference): Float32Array {
    return Float32Array.from(this.#at(site));
  }

  /** Whether there is a direction for this layer or site. */
  has(site: SiteReference): boolean {
    return this.#directions.has(siteName(site)) || this.#directions.has(ANY_SITE);
  }

  /** The same vector with only these layers or sites. */
  only(sites: readonly SiteReference[]): SteeringVector {
    return this.#with(new Map(sites.map((site) => [siteName(site), this.#at(site)])), this.name);
  }

  /** Sum, site by site; both must have the same sites. */
  plus(other: SteeringVector): SteeringVector {
    return this.#zip(other, "plus", (a, b) => a + b, label(this, "+", other));
  }

  /** Difference, site by site; both must have the same sites. */
  minus(other: SteeringVector): SteeringVector {
    return this.#zip(other, "minus", (a, b) => a - b, label(this, "-", other));
  }

  /** Every element times a finite number. */
  times(factor: number): SteeringVector {
    if (typeof factor !== "number" || !Number.isFinite(factor))
      throw misuse(RangeError, "ERR_ARGUMENT_RANGE", "SteeringVector.times", "a finite number", factor);
    return this.#map((direction) => direction.map((x) => x * factor), this.name && `${factor} ${this.name}`);
  }

  /** The opposite direction. */
  negated(): SteeringVector {
    return this.#map((direction) => direction.map((x) => -x), this.name && `-${this.name}`);
  }

  /**
   * Each direction divided by its norm.
   * @throws SteeringError ERR_DIRECTION_ZERO when a direction is zero.
   */
  normalized(): SteeringVector {
    return this.#map((direction, site) => {
      const length = norm(direction);
      if (length === 0) throw zeroDirection(`SteeringVector.normalized at ${site}`);
      return direction.map((x) => x / length);
    }, this.name);
  }

  /** Inner product with another vector, over one site or over all of them. Float64 sums. */
  dot(other: SteeringVector, options: { site?: SiteReference } = {}): number {
    let sum = 0;
    for (const [a, b] of this.#pairs(other, "dot", options.site)) sum += dot(a, b);
    return sum;
  }

  /** Euclidean length of one site's direction, or over all sites together. */
  norm(options: { site?: SiteReference } = {}): number {
    return Math.sqrt(this.dot(this, options));
  }

  /**
   * Cosine of the angle to another vector, in [-1, 1].
   * @throws SteeringError ERR_DIRECTION_ZERO when either is zero.
   */
  cosine(other: SteeringVector, options: { site?: SiteReference } = {}): number {
    const lengths = this.norm(options) * other.norm(options);
    if (lengths === 0) throw zeroDirection("SteeringVector.cosine");
    return Math.max(-1, Math.min(1, this.dot(other, options) / lengths));
  }

  /** The same directions under another name. */
  named(name: string): SteeringVector {
    return this.#with(this.#directions, name);
  }

  /**
   * Reads a vector file: .safetensors, .npy, .json, .gguf, .pt, or a folder with steering_vector.pt.
   * See docs/formats.md for what each holds.
   * @throws DataError ERR_VECTOR_FILE, ERR_VECTOR_FORMAT.
   */
  static async load(path: string): Promise<SteeringVector> {
    const { loadVector } = await import("./vector-files.ts");
    return loadVector(path);
  }

  /**
   * Writes the vector; the format follows the ending: .safetensors (native), .npy, .json, .gguf, .pt.
   * The file appears whole or not at all.
   * @throws DataError ERR_VECTOR_FORMAT when the format cannot hold it.
   */
  async save(path: string): Promise<void> {
    const { saveVector } = await import("./vector-files.ts");
    await saveVector(this, path);
  }

  toString(): string {
    const where = this.sites.length === 1 ? this.sites[0] : `${this.sites.length} sites`;
    return `SteeringVector(${this.name || "unnamed"}, ${where}, width ${this.width})`;
  }

  #at(site: SiteReference): Float32Array {
    const direction = this.#directions.get(siteName(site)) ?? this.#directions.get(ANY_SITE);
    if (direction) return direction;
    throw new SteeringError(
      "ERR_VECTOR_SITE",
      `SteeringVector "${this.name}": expected one of its sites (${this.sites.join(", ")}), got ${site}`,
      { details: { got: site, sites: this.sites } },
    );
  }

  #with(directions: ReadonlyMap<string, Float32Array>, name: string): SteeringVector {
    return new SteeringVector({
      name,
      directions: directions as ReadonlyMap<string, Float32Array>,
      model: { name: this.model.name, weightHash: this.model.weightHash },
      method: this.method,
      notes: this.notes,
    });
  }

  #map(change: (direction: Float32Array, site: string) => Float32Array, name: string): SteeringVector {
    const next = new Map<string, Float32Array>();
    for (const [site, direction] of this.#directions) next.set(site, change(direction, site));
    return this.#with(next, name);
  }

  #zip(
    other: SteeringVector,
    what: string,
    combine: (a: number, b: number) => number,
    name: string,
  ): SteeringVector {
    const pairs = this.#pairs(other, what);
    let index = 0;
    return this.#map(() => {
      const [a, b] = pairs[index++]!;
      return a.map((x, i) => combine(x, b[i]!));
    }, name);
  }

  #pairs(other: SteeringVector, what: string, site?: SiteReference): [Float32Array, Float32Array][] {
    if (!(other instanceof SteeringVector))
      throw misuse(TypeError, "ERR_ARGUMENT_TYPE", `SteeringVector.${what}`, "a SteeringVector", other);
    if (other.width !== this.width)
      throw new SteeringError(
        "ERR_VECTOR_WIDTH",
        `SteeringVector.${what}: expected a vector of width ${this.width}, got width ${other.width}`,
        { details: { expected: this.width, got: other.width } },
      );
    const hashes = [this.model.weightHash, other.model.weightHash];
    if (hashes[0] && hashes[1] && hashes[0] !== hashes[1])
      throw new SteeringError(
        "ERR_VECTOR_MODEL",
        `SteeringVector.${what}: expected vectors of one model, got "${this.model.name}" and "${other.model.name}"`,
        { details: { weightHashes: hashes } },
      );
    if (site !== undefined) return [[this.#at(site), other.#at(site)]];
    const same =
      this.#directions.size === other.#directions.size && this.sites.every((s) => other.#directions.has(s));
    if (!same)
      throw new SteeringError(
        "ERR_VECTOR_SITE",
        `SteeringVector.${what}: expected the same sites (${this.sites.join(", ")}), got ${other.sites.join(", ")}`,
        {
          details: { sites: [this.sites, other.sites] },
          remedies: ["take the common ones with only([...]) or name one with { site }"],
        },
      );
    return this.sites.map((s) => [this.#directions.get(s)!, other.#directions.get(s)!]);
  }
}

/** Float64 inner product of two float32 rows of one length. */
export function dot(a: Float32Array, b: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
}

/** Euclidean length, summed in float64. */
export function norm(a: Float32Array): number {
  return Math.sqrt(dot(a, a));
}

/** Copies numbers to float32; NaN, infinity and what overflows float32 are ERR_VECTOR_NOT_FINITE. */
export function finiteVector(where: string, values: ArrayLike<number>): Float32Array {
  const copy = new Float32Array(values.length);
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!;
    copy[i] = value;
    if (typeof value !== "number" || !Number.isFinite(copy[i]!))
      throw new SteeringError(
        "ERR_VECTOR_NOT_FINITE",
        `${where}: expected finite float32 numbers, got ${String(value)} at element ${i}`,
        { details: { where, index: i, got: String(value) } },
      );
  }
  return copy;
}

export function zeroDirection(where: string): SteeringError {
  return new SteeringError("ERR_DIRECTION_ZERO", `${where}: expected a direction with a length, got zero`, {
    details: { where },
    remedies: ["a zero vector has no direction to project on; check how the vector was made"],
  });
}

function label(a: SteeringVector, sign: string, b: SteeringVector): string {
  return a.name && b.name ? `${a.name} ${sign} ${b.name}` : "";
}

function siteName(site: SiteReference): string {
  return typeof site === "number" ? layerSite(site) : site;
}

function copyDirections(given: SteeringVectorInit["directions"]): ReadonlyMap<string, Float32Array> {
  const entries = directionEntries(given);
  const map = new Map<string, Float32Array>();
  let width = -1;
  for (const [site, values] of entries) {
    const direction = finiteVector(`SteeringVector at ${site}`, values);
    if (width < 0) width = direction.length;
    if (direction.length !== width || width === 0)
      throw new SteeringError(
        "ERR_VECTOR_WIDTH",
        `SteeringVector at ${site}: expected ${width > 0 ? width : "at least 1"} elements, got ${direction.length}`,
        { details: { site, expected: width, got: direction.length } },
      );
    map.set(site, direction);
  }
  if (map.size === 0)
    throw misuse(
      TypeError,
      "ERR_ARGUMENT_TYPE",
      "SteeringVector.directions",
      "at least one direction",
      given,
    );
  return map;
}

function directionEntries(given: unknown): [string, ArrayLike<number>][] {
  const single = isNumberList(given);
  if (single) return [[ANY_SITE, single]];
  if (typeof given !== "object" || given === null)
    throw misuse(
      TypeError,
      "ERR_ARGUMENT_TYPE",
      "SteeringVector.directions",
      "numbers, a Map or an object",
      given,
    );
  const pairs = given instanceof Map ? [...given] : Object.entries(given);
  return pairs.map(([key, value]) => {
    const site = typeof key === "number" || /^\d+$/.test(key) ? layerSite(Number(key)) : String(key);
    const values = isNumberList(value);
    if (!values)
      throw misuse(TypeError, "ERR_ARGUMENT_TYPE", `SteeringVector at ${site}`, "an array of numbers", value);
    return [site, values];
  });
}
