// SPDX-License-Identifier: Apache-2.0
// "Did you mean ...?": the known names nearest to what was typed, by edit distance.

/** Damerau-Levenshtein distance (adjacent transpositions count one), optimal string alignment form. */
export function editDistance(a: string, b: string): number {
  let before: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1];
      let best = Math.min(last[j]! + 1, row[j - 1]! + 1, last[j - 1]! + (same ? 0 : 1));
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        best = Math.min(best, before[j - 2]! + 1);
      row.push(best);
    }
    before = last;
    last = row;
  }
  return last[b.length]!;
}

/** Up to three known names near enough to be meant, nearest first. */
export function nearest(name: string, known: readonly string[], limit = 3): string[] {
  const wanted = name.toLowerCase();
  const allowed = Math.max(2, Math.floor(name.length * 0.4));
  return known
    .map((candidate) => {
      const other = candidate.toLowerCase();
      const contained =
        other.length > 2 && wanted.length > 2 && (other.includes(wanted) || wanted.includes(other));
      return {
        candidate,
        distance: contained ? Math.min(1.5, editDistance(wanted, other)) : editDistance(wanted, other),
      };
    })
    .filter((entry) => entry.distance <= allowed)
    .sort((a, b) => a.distance - b.distance)
    .slice(0, limit)
    .map((entry) => entry.candidate);
}

/** `; did you mean "x" or "y"?`, or nothing. */
export function suggestion(names: readonly string[]): string {
  if (names.length === 0) return "";
  const quoted = names.map((n) => `"${n}"`);
  const list = quoted.length === 1 ? quoted[0] : `${quoted.slice(0, -1).join(", ")} or ${quoted.at(-1)}`;
  return `; did you mean ${list}?`;
}
