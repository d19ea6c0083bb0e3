// SPDX-License-Identifier: Apache-2.0
// English sentences as NLTK's sent_tokenize finds them: essay haystacks are cut there, and needles go between.
// Source: Kiss and Strunk, "Unsupervised Multilingual Sentence Boundary Detection", Computational Linguistics
// 32 (2006); decisions and character classes as in NLTK 3.10, parameters from nltk_data's punkt_tab (English).

import { readFileSync } from "node:fs";
import { assetUrl } from "../data/assets.ts";
import { isSpace, PYTHON_SPACE, stripEnd } from "./python-text.ts";

const S = `[${PYTHON_SPACE}]`;
const NOT_S = `[^${PYTHON_SPACE}]`;
const NON_WORD = `[)";}\\]*:@'({\\[\u2018\u2019\u201c\u201d\xab\xbb?!]`;
const MULTI = `(?:-{2,}|\\.{2,}|(?:\\.${S}){2,}\\.)`;
/** A possible end, then what follows it: other punctuation, or white space and a token. */
const CONTEXT = new RegExp(`[.?!](?=(${NON_WORD}|(${S}+)(${NOT_S}+)))`, "gu");
const WORD = new RegExp(
  `${MULTI}|(?=[^("\`{[:;&#*@)}\\]\\-,])${NOT_S}+?(?=${S}|$|${NON_WORD}|${MULTI}|,(?=$|${S}|${NON_WORD}|${MULTI}))|${NOT_S}`,
  "gu",
);
const REALIGN = new RegExp(`^["')\\]}\u2018\u2019\u201c\u201d\xab\xbb]+?(?:${S}+|(?=--)|(?=\\n)|$)`, "u");
const NUMERIC = /^-?[.,]?\p{Nd}[\p{Nd},.-]*\.?$/u;
const INITIAL = /^[\p{L}\p{Nl}\p{No}_]\.$/u;
const ELLIPSIS = /^\.\.+$/;
const UPPER = /^\p{Uppercase}/u;
const LOWER = /^\p{Lowercase}/u;
const PUNCTUATION = ";:,.!?";

/** Bits of the orthographic context: where a word type was seen, and in which case. */
const BEGIN_UPPER = 1 << 1;
const MIDDLE_UPPER = 1 << 2;
const UNKNOWN_UPPER = 1 << 3;
const BEGIN_LOWER = 1 << 4;
const MIDDLE_LOWER = 1 << 5;
const UNKNOWN_LOWER = 1 << 6;
const ANY_UPPER = BEGIN_UPPER | MIDDLE_UPPER | UNKNOWN_UPPER;
const ANY_LOWER = BEGIN_LOWER | MIDDLE_LOWER | UNKNOWN_LOWER;

interface Token {
  readonly text: string;
  readonly type: string;
  readonly periodFinal: boolean;
  sentenceBreak: boolean;
  abbreviation: boolean;
  readonly ellipsis: boolean;
}

interface Parameters {
  readonly abbreviations: ReadonlySet<string>;
  readonly collocations: ReadonlySet<string>;
  readonly starters: ReadonlySet<string>;
  readonly orthography: ReadonlyMap<string, number>;
}

let loaded: Parameters | undefined;

function parameters(): Parameters {
  if (loaded) return loaded;
  const lines = (name: string) =>
    readFileSync(assetUrl(`punkt/${name}`), "utf8")
      .split("\n")
      .filter((line) => line !== "");
  loaded = {
    abbreviations: new Set(lines("abbrev_types.txt")),
    collocations: new Set(lines("collocations.tab")),
    starters: new Set(lines("sent_starters.txt")),
    orthography: new Map(
      lines("ortho_context.tab").map((line) => {
        const tab = line.indexOf("\t");
        return [line.slice(0, tab), Number(line.slice(tab + 1))];
      }),
    ),
  };
  return loaded;
}

/** The sentences of a text, each a slice of it, in order (`nltk.sent_tokenize(text)`). */
export function sentences(text: string): string[] {
  return realigned(text, slices(text));
}

type Span = { start: number; end: number };

interface Candidate {
  /** Where the word that may end a sentence starts. */
  wordStart: number;
  /** Offset of the end character. */
  at: number;
  afterStart: number;
  afterEnd: number;
  /** Start of the next token, where white space lies between; -1 where punctuation follows at once. */
  next: number;
}

function* candidates(text: string): Generator<Candidate> {
  CONTEXT.lastIndex = 0;
  let previous: Candidate | undefined;
  let wordStart = 0;
  let wordEnd = 0;
  const context = new RegExp(CONTEXT);
  for (let match = context.exec(text); match !== null; match = context.exec(text)) {
    const at = match.index;
    // The last white space between the previous candidate's end character and this one. None: the word is the
    // previous candidate's. One at the very first place counts as none, as in NLTK.
    let space = at - 1;
    while (space > wordEnd && !isAsciiSpace(text.charCodeAt(space))) space--;
    const start = space > wordEnd ? space + 1 : wordStart;
    if (previous && wordEnd <= start) yield previous;
    const after = match[1]!;
    previous = {
      wordStart: start,
      at,
      afterStart: at + 1,
      afterEnd: at + 1 + after.length,
      next: match[3] === undefined ? -1 : at + 1 + match[2]!.length,
    };
    wordStart = start;
    wordEnd = at;
  }
  if (previous) yield previous;
}

function isAsciiSpace(unit: number): boolean {
  return unit === 0x20 || (unit >= 9 && unit <= 13);
}

function slices(text: string): Span[] {
  const spans: Span[] = [];
  let start = 0;
  for (const found of candidates(text)) {
    if (!breaksSentence(text.slice(found.wordStart, found.afterEnd))) continue;
    spans.push({ start, end: found.at + 1 });
    start = found.next >= 0 ? found.next : found.at + 1;
  }
  spans.push({ start, end: stripEnd(text).length });
  return spans;
}

/** Closing quotes and brackets after the end character go to the sentence they close. */
function realigned(text: string, spans: readonly Span[]): string[] {
  const result: string[] = [];
  let moved = 0;
  for (let i = 0; i < spans.length; i++) {
    const start = spans[i]!.start + moved;
    const { end } = spans[i]!;
    const next = spans[i + 1];
    const closing = next ? REALIGN.exec(text.slice(next.start, Math.max(next.start, next.end))) : null;
    if (next && closing) {
      result.push(text.slice(start, next.start + stripEnd(closing[0]).length));
      moved = closing[0].length;
    } else {
      moved = 0;
      if (end > start) result.push(text.slice(start, end));
    }
  }
  return result;
}

function breaksSentence(context: string): boolean {
  const tokens: Token[] = [];
  for (const line of context.split("\n")) {
    if (!isBlank(line)) for (const [word] of line.matchAll(WORD)) tokens.push(makeToken(word));
  }
  // A break on the last token does not count: nothing is there to start a sentence.
  for (let i = 0; i + 1 < tokens.length; i++) {
    reconsider(tokens[i]!, tokens[i + 1]!);
    if (tokens[i]!.sentenceBreak) return true;
  }
  return false;
}

function isBlank(line: string): boolean {
  for (let i = 0; i < line.length; i++) if (!isSpace(line.charCodeAt(i))) return false;
  return true;
}

/** Decisions from the token's own form. */
function makeToken(text: string): Token {
  const lower = text.toLowerCase();
  const periodFinal = text.endsWith(".");
  const token: Token = {
    text,
    type: NUMERIC.test(lower) ? "##number##" : lower,
    periodFinal,
    sentenceBreak: false,
    abbreviation: false,
    ellipsis: ELLIPSIS.test(text),
  };
  if (text === "." || text === "?" || text === "!") token.sentenceBreak = true;
  else if (!token.ellipsis && periodFinal && !text.endsWith("..")) {
    const known = parameters().abbreviations;
    const stem = text.slice(0, -1).toLowerCase();
    if (known.has(stem) || known.has(stem.slice(stem.lastIndexOf("-") + 1))) token.abbreviation = true;
    else token.sentenceBreak = true;
  }
  return token;
}

function withoutPeriod(type: string): string {
  return type.length > 1 && type.endsWith(".") ? type.slice(0, -1) : type;
}

/** Decisions from the token and its successor: collocations, orthography, sentence starters, initials. */
function reconsider(token: Token, next: Token): void {
  if (!token.periodFinal) return;
  const { collocations, starters, orthography } = parameters();
  const type = withoutPeriod(token.type);
  const nextType = next.sentenceBreak ? withoutPeriod(next.type) : next.type;
  const initial = INITIAL.test(token.text);

  if (collocations.has(`${type}\t${nextType}`)) {
    token.sentenceBreak = false;
    token.abbreviation = true;
    return;
  }
  if ((token.abbreviation || token.ellipsis) && !initial) {
    const starts = startsSentence(next, nextType);
    if (starts === true || (UPPER.test(next.text) && starters.has(nextType))) {
      token.sentenceBreak = true;
      return;
    }
  }
  if (initial || type === "##number##") {
    const starts = startsSentence(next, nextType);
    const alwaysUpper = UPPER.test(next.text) && !((orthography.get(nextType) ?? 0) & ANY_LOWER);
    if (starts === false || (starts === undefined && initial && alwaysUpper)) {
      token.sentenceBreak = false;
      token.abbreviation = true;
    }
  }
}

/** What spelling says about a token at a sentence's start; undefined: nothing. */
function startsSentence(token: Token, type: string): boolean | undefined {
  if (PUNCTUATION.includes(token.text)) return false;
  const seen = parameters().orthography.get(type) ?? 0;
  if (UPPER.test(token.text) && seen & ANY_LOWER && !(seen & MIDDLE_UPPER)) return true;
  if (LOWER.test(token.text) && (seen & ANY_UPPER || !(seen & BEGIN_LOWER))) return false;
  return undefined;
}
