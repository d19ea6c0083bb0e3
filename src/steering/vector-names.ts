// SPDX-License-Identifier: Apache-2.0
// Vectors by name: those that ship in the package (models/vectors/NAME.safetensors), their opposites
// under a name of their own ("sad" is minus "happy"), and any vector file by its path.

import { readdir } from "node:fs/promises";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { DataError } from "../errors.ts";
import { nearest, suggestion } from "./nearest.ts";
import type { SteeringVector } from "./vector.ts";
import { loadVector } from "./vector-files.ts";

// dist/steering and src/steering are equally far from the package root.
const FOLDER = fileURLToPath(new URL("../../models/vectors", import.meta.url));

/** A file NAME-OPPOSITE.safetensors serves two names. */
export interface NamedVector {
  name: string;
  file: string;
  /** The vector is the opposite of what the file holds. */
  negated: boolean;
}

/** Names of the vectors in the package. */
export async function listNamedVectors(): Promise<NamedVector[]> {
  const files = await readdir(FOLDER).catch(() => [] as string[]);
  return files
    .filter((file) => file.endsWith(".safetensors"))
    .sort()
    .flatMap((entry) => {
      const [positive, negative] = basename(entry, ".safetensors").split("-");
      const file = join(FOLDER, entry);
      const both = [{ name: positive!, file, negated: false }];
      return negative === undefined ? both : [...both, { name: negative, file, negated: true }];
    });
}

/**
 * A vector by name or by path.
 * @throws DataError ERR_VECTOR_UNKNOWN for a name that is neither, with the nearest names.
 */
export async function resolveVector(nameOrPath: string): Promise<SteeringVector> {
  const looksLikePath = /[\\/]/.test(nameOrPath) || /\.[a-z]+$/i.test(nameOrPath);
  if (looksLikePath) return loadVector(nameOrPath);
  const named = await listNamedVectors();
  const found = named.find((entry) => entry.name === nameOrPath);
  if (found) {
    const vector = await loadVector(found.file);
    return (found.negated ? vector.negated() : vector).named(found.name);
  }
  const names = named.map((entry) => entry.name);
  const near = nearest(nameOrPath, names);
  throw new DataError(
    "ERR_VECTOR_UNKNOWN",
    `vector: expected a file or one of ${names.join(", ") || "no names (none ship)"}, got "${nameOrPath}"${suggestion(near)}`,
    {
      details: { got: nameOrPath, names, nearest: near },
      remedies: ["a path needs a slash or an ending: ./happy.npy"],
    },
  );
}
