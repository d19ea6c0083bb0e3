// SPDX-License-Identifier: Apache-2.0
// Whole programs from files: chatspace's checkpoints hold vectors, projection caps and ablations by layer.

import { DataError } from "../errors.ts";
import { readTorchSave } from "../formats/torch-save.ts";
import type { SteeringOperation } from "./program.ts";
import { entry, keysOf, oneRow, tensorOf } from "./vector-foreign.ts";

/**
 * The program of a chatspace checkpoint: { layer_vectors, projection_caps, ablations }, each by layer. At
 * a layer chatspace adds, then caps, then ablates. Directions of caps and ablations are normalised here;
 * there they were taken as given.
 *
 * @throws DataError ERR_VECTOR_FORMAT when nothing of it is there, ERR_TORCH_SAVE for a damaged file.
 */
export function loadSteeringProgram(file: string): SteeringOperation[] {
  const root: unknown = readTorchSave(file);
  const [adds, caps, ablations] = ["layer_vectors", "projection_caps", "ablations"].map((key) =>
    entry(root, key),
  );
  const layers = [...new Set([adds, caps, ablations].flatMap(keysOf))].map(Number).sort((a, b) => a - b);
  const program = layers.flatMap((layer): SteeringOperation[] => {
    const key = String(layer);
    const add = directionOf(file, entry(adds, key));
    const cap = entry(caps, key);
    const ablation = entry(ablations, key);
    const capDirection = directionOf(file, cap);
    const ablationDirection = directionOf(file, ablation);
    const scale = entry(ablation, "scale");
    return [
      ...(add ? [{ layer, op: "add" as const, vector: add }] : []),
      ...(capDirection ? [{ layer, op: "cap" as const, vector: capDirection, ...boundsOf(cap) }] : []),
      ...(ablationDirection
        ? [
            {
              layer,
              op: "ablate" as const,
              vector: ablationDirection,
              ...(typeof scale === "number" ? { scale } : {}),
            },
          ]
        : []),
    ];
  });
  if (program.length > 0) return program;
  throw new DataError(
    "ERR_VECTOR_FORMAT",
    `${file}: expected layer_vectors, projection_caps or ablations, got ${keysOf(root).join(", ") || "none"}`,
    { details: { file, keys: keysOf(root) }, remedies: ["a vector alone is read by SteeringVector.load"] },
  );
}

/** A tensor itself, or the one tensor among the fields of an entry. */
function directionOf(file: string, value: unknown): Float32Array | undefined {
  const tensors = [value, ...keysOf(value).map((key) => entry(value, key))].map(tensorOf);
  const tensor = tensors.find((candidate) => candidate !== undefined);
  return tensor ? oneRow(file, tensor) : undefined;
}

function boundsOf(cap: unknown): { min?: number; max?: number } {
  const [min, max] = [entry(cap, "min"), entry(cap, "max")];
  return { ...(typeof min === "number" ? { min } : {}), ...(typeof max === "number" ? { max } : {}) };
}
