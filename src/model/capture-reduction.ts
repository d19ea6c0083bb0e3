// SPDX-License-Identifier: Apache-2.0
// Captures that keep a few numbers of each row. They are computed where the row is, beside the steering
// operator or right after the forward; the row itself never crosses to JavaScript.

import { misuse, SteeringError } from "../errors.ts";
import type { NativeCapture, NativeReduction } from "../native/contract.ts";
import { checkBoolean, checkKeys, checkNumber, checkObject, isNumberList } from "../steering/check.ts";
import { fitted } from "../steering/placement.ts";
import type { Site } from "../steering/sites.ts";
import { finiteVector, norm, zeroDirection } from "../steering/vector.ts";

/** The encoder of a sparse autoencoder: relu(W h + b). A decoder bias taken from h first belongs into b. */
export interface SparseEncoder {
  /** [features, width of the site] row-major. */
  weight: Float32Array;
  /** [features]. */
  bias?: Float32Array;
  /** Default true. */
  relu?: boolean;
  /** Only the k largest features, largest first, with their indices; default 0, all of them. */
  topK?: number;
}

export type CaptureReduction =
  /** h.d for each direction as given, or its cosine. */
  | { directions: readonly (Float32Array | readonly number[])[]; cosine?: boolean }
  | { sae: SparseEncoder }
  /** The k likeliest tokens (log-probabilities) if the row were the last layer's: the logit lens. */
  | { lens: number };

const NONE = { weight: null, bias: null, relu: false, cosine: false, topK: 0 } as const;

/** @throws SteeringError ERR_REDUCER, ERR_VECTOR_WIDTH, ERR_VECTOR_NOT_FINITE, ERR_DIRECTION_ZERO; TypeError. */
export function compileReduction(
  given: unknown,
  site: Site,
  pool: NativeCapture["pool"],
): NativeReduction | null {
  if (given === undefined) return null;
  const where = "capture.reduce";
  const options = checkObject(where, given);
  checkKeys(where, options, ["directions", "cosine", "sae", "lens"]);
  const kinds = ["directions", "sae", "lens"].filter((key) => options[key] !== undefined);
  if (kinds.length !== 1)
    throw misuse(TypeError, "ERR_ARGUMENT_TYPE", where, "one of directions, sae and lens", kinds.join(", "));
  if (kinds[0] === "directions") return directions(options, site, where);
  const compiled =
    kinds[0] === "sae" ? encoder(options.sae, site, `${where}.sae`) : lens(options.lens, site, where);
  if (compiled.topK > 0 && pool !== "none")
    throw new SteeringError("ERR_REDUCER", `${where}: expected either pooling or the k largest, got both`, {
      details: { where, pool, topK: compiled.topK },
      remedies: ["pool all features (no topK), or keep the rows apart"],
    });
  return compiled;
}

function directions(options: Record<string, unknown>, site: Site, where: string): NativeReduction {
  const { directions: list } = options;
  if (!Array.isArray(list) || list.length === 0)
    throw misuse(TypeError, "ERR_ARGUMENT_TYPE", `${where}.directions`, "a list of vectors", list);
  const cosine = options.cosine === undefined ? false : checkBoolean(`${where}.cosine`, options.cosine);
  const weight = new Float32Array(list.length * site.width);
  list.forEach((row: unknown, r) => {
    weight.set(direction(row, cosine, site, `${where}.directions[${r}]`), r * site.width);
  });
  return { ...NONE, kind: "directions", weight, cosine };
}

function direction(row: unknown, cosine: boolean, site: Site, at: string): Float32Array {
  const numbers = isNumberList(row);
  if (!numbers) throw misuse(TypeError, "ERR_ARGUMENT_TYPE", at, "numbers", row);
  const vector = fitted(finiteVector(at, numbers), site, at);
  if (!cosine) return vector;
  const length = norm(vector);
  if (length === 0) throw zeroDirection(at);
  return vector.map((x) => x / length);
}

function encoder(given: unknown, site: Site, where: string): NativeReduction {
  const sae = checkObject(where, given) as Partial<SparseEncoder>;
  checkKeys(where, sae, ["weight", "bias", "relu", "topK"]);
  const { weight, bias } = sae;
  if (!(weight instanceof Float32Array) || weight.length === 0)
    throw misuse(TypeError, "ERR_ARGUMENT_TYPE", `${where}.weight`, "a Float32Array", weight);
  const features = weight.length / site.width;
  if (!Number.isInteger(features))
    throw new SteeringError(
      "ERR_VECTOR_WIDTH",
      `${where}.weight: expected rows of ${site.width} elements, the width of ${site.name}, got ${weight.length} in all`,
      { details: { where, site: site.name, expected: site.width, got: weight.length } },
    );
  if (bias !== undefined && (!(bias instanceof Float32Array) || bias.length !== features))
    throw misuse(TypeError, "ERR_ARGUMENT_TYPE", `${where}.bias`, `a Float32Array of ${features}`, bias);
  return {
    ...NONE,
    kind: "encoder",
    weight,
    bias: bias ?? null,
    relu: sae.relu === undefined ? true : checkBoolean(`${where}.relu`, sae.relu),
    topK:
      sae.topK === undefined
        ? 0
        : checkNumber(`${where}.topK`, sae.topK, { integer: true, min: 0, max: features }),
  };
}

function lens(given: unknown, site: Site, where: string): NativeReduction {
  const topK = checkNumber(`${where}.lens`, given, { integer: true, min: 1 });
  if (site.name === "final")
    throw new SteeringError(
      "ERR_REDUCER",
      `${where}.lens: expected a site before the final norm, got "final"`,
      {
        details: { where, site: site.name },
        remedies: ["the last layer's lens is the model's own prediction: logits or logprobs"],
      },
    );
  return { ...NONE, kind: "lens", topK };
}
