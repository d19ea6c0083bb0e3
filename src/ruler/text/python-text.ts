// SPDX-License-Identifier: Apache-2.0
// Python's ideas of text where JavaScript's differ and the bytes show it: what is whitespace, what a string
// index counts, how json.dump writes.

/** The body of a character class: what Python's `\s`, str.strip and str.split take for whitespace. */
export const PYTHON_SPACE =
  "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";

const SPACE_RUN = new RegExp(`[${PYTHON_SPACE}]+`, "g");
const LEADING = new RegExp(`^[${PYTHON_SPACE}]+`);
const TRAILING = new RegExp(`[${PYTHON_SPACE}]+$`);

/** `str.strip()`. */
export function strip(text: string): string {
  return stripEnd(text.replace(LEADING, ""));
}

/** `str.rstrip()`. */
export function stripEnd(text: string): string {
  // A trailing regex is quadratic on long inner runs; most texts end in a visible character.
  let end = text.length;
  while (end > 0 && isSpace(text.charCodeAt(end - 1))) end--;
  return end === text.length ? text : text.slice(0, end);
}

/** Whether a UTF-16 unit is whitespace to Python. */
export function isSpace(unit: number): boolean {
  if (unit <= 0x20) return unit === 0x20 || (unit >= 9 && unit <= 13) || (unit >= 0x1c && unit <= 0x1f);
  return unit >= 0x85 && TRAILING.test(String.fromCharCode(unit));
}

/** `re.sub(r'\s+', ' ', text)`. */
export function collapseSpace(text: string): string {
  return text.replace(SPACE_RUN, " ");
}

/** `text.split()`. */
export function splitSpace(text: string): string[] {
  const body = strip(text);
  return body === "" ? [] : body.split(SPACE_RUN);
}

/** A UTF-16 offset as the code-point offset Python gives. */
export function codePointOffset(text: string, offset: number): number {
  if (!SURROGATE.test(text)) return offset;
  let count = offset;
  for (let i = 1; i < offset; i++) {
    const unit = text.charCodeAt(i);
    if (unit >= 0xdc00 && unit <= 0xdfff) {
      const before = text.charCodeAt(i - 1);
      if (before >= 0xd800 && before <= 0xdbff) count--;
    }
  }
  return count;
}

/** The order of Python's sorted() on strings: by code point. */
export function compareCodePoints(a: string, b: string): number {
  const n = Math.min(a.length, b.length);
  for (let i = 0; i < n; i++) {
    const x = a.charCodeAt(i);
    const y = b.charCodeAt(i);
    if (x !== y) {
      // Surrogates stand for code points above every other unit.
      const xHigh = x >= 0xd800 && x <= 0xdfff;
      const yHigh = y >= 0xd800 && y <= 0xdfff;
      return xHigh === yHigh ? x - y : xHigh ? 1 : -1;
    }
  }
  return a.length - b.length;
}

const SURROGATE = /[\ud800-\udfff]/;
const NON_ASCII = /[\u0080-\uffff]/;
const EACH_NON_ASCII = /[\u0080-\uffff]/g;

/** `json.dumps(value)` of a string, a number or a list of strings, ASCII only. */
export function pythonJson(value: string | number | boolean | null | readonly unknown[] | object): string {
  if (Array.isArray(value)) return `[${value.map((v) => pythonJson(v)).join(", ")}]`;
  if (value !== null && typeof value === "object")
    return `{${Object.entries(value)
      .map(([k, v]) => `${pythonJson(k)}: ${pythonJson(v as string)}`)
      .join(", ")}}`;
  const text = JSON.stringify(value);
  if (!NON_ASCII.test(text)) return text;
  return text.replace(EACH_NON_ASCII, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/** `template.format(**fields)` for named fields alone; other braces are left as they are. */
export function formatTemplate(template: string, fields: Readonly<Record<string, string>>): string {
  return template.replace(/\{(\w+)\}/g, (whole, name: string) => fields[name] ?? whole);
}
