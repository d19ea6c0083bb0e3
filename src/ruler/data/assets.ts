// SPDX-License-Identifier: Apache-2.0
// The word lists and sentence parameters that ship with the package; their licences lie beside them.

/** A file under assets/ruler, from the sources and from dist alike. */
export function assetUrl(path: string): URL {
  return new URL(`../../../assets/ruler/${path}`, import.meta.url);
}
