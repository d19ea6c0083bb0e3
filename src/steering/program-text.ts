// SPDX-License-Identifier: Apache-2.0
// The text form of a program: parseProgram and formatProgram are inverse to each other. Vectors are named;
// resolveProgram finds them. The grammar is docs/steering.md, "As text".

import { SteeringError } from "../errors.ts";
import type { OperationKind, SteeringOperation } from "./program.ts";
import type { Position, Scope } from "./scope.ts";
import { resolveVector } from "./vector-names.ts";

/** A gate with its direction by name. */
export interface NamedGate {
  direction: string;
  site?: string;
  threshold: number;
  above: boolean;
  cosine: boolean;
  latch?: "prompt";
}

/** An operation with its vectors by name. */
export interface NamedOperation {
  op: OperationKind;
  vector: string;
  /** swap: where the component goes. */
  to?: string;
  /** Sites it acts at; empty = those of the vector. */
  sites: string[];
  scale?: number;
  min?: number;
  max?: number;
  mean?: number;
  amount?: number;
  angle?: number;
  limit?: number;
  keepNorm?: true;
  scope?: Scope;
  schedule?: [number, number][];
  gate?: NamedGate;
}

type Key = "scale" | "mean" | "amount" | "angle" | "limit";

/** Numbers in an operation's parentheses: the first may stand without its name. */
const NUMBERS: Partial<Record<OperationKind, readonly Key[]>> = {
  ablate: ["scale", "mean"],
  replace: ["amount"],
  rotate: ["angle"],
  addNorm: ["scale", "limit"],
};
const CALLS = ["cap", "ablate", "replace", "rotate", "addNorm", "swap"] as const;
const NUMBER = "[-+]?(?:\\d+(?:\\.\\d+)?|\\.\\d+)(?:[eE][-+]?\\d+)?";
const NAME = "[A-Za-z_][\\w./-]*";
const SITE = /^(?:embed|final|layers\.-?\d+(?:-\d+)?(?:\.\w+)*|[A-Za-z_]\w*(?:\.\w+)+)$/;

const PATTERNS = new Map<string, RegExp>();

/** @throws SteeringError ERR_PROGRAM_TEXT, with the place. */
export function parseProgram(text: string): NamedOperation[] {
  return new Parser(text).program();
}

class Parser {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  program(): NamedOperation[] {
    const operations: NamedOperation[] = [];
    this.#space();
    if (this.#at === this.#text.length) return operations;
    for (let sign = 1; ; ) {
      operations.push(this.#term(sign));
      this.#space();
      if (this.#at === this.#text.length) return operations;
      const joint = this.#take("[+-](?=\\s)") ?? this.#fail('"+" or "-" between spaces, or "@"');
      sign = joint === "-" ? -1 : 1;
    }
  }

  #term(sign: number): NamedOperation {
    const call = this.#take(`(?:${CALLS.join("|")})(?=\\s*\\()`) as OperationKind | undefined;
    if (call && sign < 0) this.#fail("a vector after a minus");
    const operation = call ? this.#call(call) : this.#scaled(sign);
    while (this.#take("@")) this.#modifier(operation);
    return operation;
  }

  #scaled(sign: number): NamedOperation {
    const factor = this.#number();
    const scale = sign * (factor ?? 1);
    this.#take("\\*");
    const vector = this.#name();
    return { op: "add", vector, sites: [], ...(factor === undefined && sign > 0 ? {} : { scale }) };
  }

  #call(op: OperationKind): NamedOperation {
    this.#need("\\(", '"("');
    const operation: NamedOperation = { op, vector: this.#name(), sites: [] };
    if (op === "cap") {
      this.#need(",", '", min..max"');
      const min = this.#number();
      this.#need("\\.\\.", '"min..max"');
      const max = this.#number();
      if (min !== undefined) operation.min = min;
      if (max !== undefined) operation.max = max;
    } else if (op === "swap") {
      this.#need(",", '", vector"');
      operation.to = this.#name();
    } else {
      const keys = NUMBERS[op] ?? [];
      for (let first = true; this.#take(","); first = false) {
        const key =
          (this.#take(`(?:${keys.join("|")})(?=[\\s\\d.+-])`) as Key | undefined) ??
          (first ? keys[0] : undefined);
        if (!key) this.#fail(`one of ${keys.join(", ")}`);
        operation[key] = this.#must();
        if (key === "angle" && this.#take("deg")) operation.angle = (operation[key] * Math.PI) / 180;
      }
    }
    this.#need("\\)", '")"');
    return operation;
  }

  #modifier(operation: NamedOperation): void {
    const scope = (part: Scope) => {
      operation.scope = { ...operation.scope, ...part };
    };
    const count = (): number => {
      this.#need(":", '":" and a number');
      return this.#must();
    };
    if (this.#take("when(?=\\s*\\()")) operation.gate = this.#gate();
    else if (this.#take("keepnorm\\b")) operation.keepNorm = true;
    else if (this.#take("after(?=:)")) scope({ after: count() });
    else if (this.#take("first(?=:)")) scope({ first: count() });
    else if (this.#take("positions:")) scope({ positions: this.#list(() => this.#position()) });
    else if (this.#take("tokens:")) scope({ tokenIds: this.#list(() => this.#must()) });
    else if (this.#take("strength:")) operation.schedule = this.#list(() => this.#point());
    else {
      const phase = this.#take("(?:all|prompt|generation)(?![\\w.])");
      if (phase) scope({ phase: phase as "all" });
      else operation.sites.push(...this.#list(() => this.#sites()).flat());
    }
  }

  #gate(): NamedGate {
    this.#need("\\(", '"("');
    const cosine = this.#take('cos(?=\\s+[\\w"])') !== undefined;
    const direction = this.#name();
    const site = this.#take("@") ? this.#site() : undefined;
    const side = this.#take("[<>]") ?? this.#fail('"<" or ">"');
    const threshold = this.#must();
    const latch = this.#take(",") !== undefined;
    if (latch) this.#need("prompt", '"prompt"');
    this.#need("\\)", '")"');
    return {
      ...{ direction, ...(site === undefined ? {} : { site }), threshold, above: side === ">", cosine },
      ...(latch ? { latch: "prompt" as const } : {}),
    };
  }

  #position(): Position {
    const start = this.#must();
    return this.#take("\\.\\.") ? [start, this.#must()] : start;
  }

  #point(): [number, number] {
    const index = this.#must();
    this.#need("=", '"index=factor"');
    return [index, this.#must()];
  }

  #site(): string {
    const start = this.#at;
    const site = this.#take("[A-Za-z_][\\w.-]*");
    if (site !== undefined && SITE.test(site)) return site;
    this.#at = start;
    return this.#fail("a site (layers.16, layers.12-18.mlp, embed, ...) or a word such as generation");
  }

  #sites(): string[] {
    const site = this.#site();
    const range = /^layers\.(\d+)-(\d+)(\..+)?$/.exec(site);
    if (!range) return [site];
    const [first, last] = [Number(range[1]), Number(range[2])];
    if (last < first) this.#fail(`layers in ascending order before here, got ${site}`);
    return Array.from({ length: last - first + 1 }, (_, i) => `layers.${first + i}${range[3] ?? ""}`);
  }

  #list<T>(item: () => T): T[] {
    const items = [item()];
    while (this.#take(",")) items.push(item());
    return items;
  }

  #name(): string {
    const quoted = this.#take('"(?:[^"\\\\]|\\\\.)*"');
    if (quoted !== undefined) return JSON.parse(quoted) as string;
    return this.#take(NAME) ?? this.#fail("the name of a vector");
  }

  #number(): number | undefined {
    const found = this.#take(NUMBER);
    return found === undefined ? undefined : Number(found);
  }

  #must(): number {
    return this.#number() ?? this.#fail("a number");
  }

  #space(): void {
    while (/\s/.test(this.#text[this.#at] ?? "")) this.#at++;
  }

  #take(pattern: string): string | undefined {
    this.#space();
    const match = PATTERNS.get(pattern) ?? new RegExp(pattern, "y");
    PATTERNS.set(pattern, match);
    match.lastIndex = this.#at;
    const found = match.exec(this.#text)?.[0];
    if (found !== undefined) this.#at += found.length;
    return found;
  }

  #need(pattern: string, expected: string): void {
    if (this.#take(pattern) === undefined) this.#fail(expected);
  }

  #fail(expected: string): never {
    const rest = this.#text.slice(this.#at, this.#at + 20);
    const got = rest === "" ? "the end" : `"${rest}"`;
    throw new SteeringError("ERR_PROGRAM_TEXT", `program, at ${this.#at}: expected ${expected}, got ${got}`, {
      details: { text: this.#text, at: this.#at, expected },
      remedies: ['for example "0.5 happy@layers.12-18 + cap(formal, 0..2) @generation"'],
    });
  }
}

/** The text of a program: parseProgram(formatProgram(p)) equals p. */
export function formatProgram(program: readonly NamedOperation[]): string {
  return program.map(formatOperation).join(" + ");
}

function formatOperation(o: NamedOperation): string {
  const places = o.sites.length > 0 ? `@${formatSites(o.sites)}` : "";
  return `${formatHead(o)}${places}${formatModifiers(o)}`;
}

function formatHead(o: NamedOperation): string {
  const vector = quote(o.vector);
  if (o.op === "add") return o.scale === undefined ? vector : `${o.scale} ${vector}`;
  if (o.op === "cap") return `cap(${vector}, ${o.min ?? ""}..${o.max ?? ""})`;
  if (o.op === "swap") return `swap(${vector}, ${quote(o.to ?? "")})`;
  const keys = NUMBERS[o.op];
  if (!keys)
    throw new SteeringError(
      "ERR_PROGRAM_TEXT",
      `program: expected an operation with a text form, got ${o.op}`,
      {
        details: { op: o.op },
        remedies: ["write the program as data"],
      },
    );
  const numbers = keys.flatMap((key) => (o[key] === undefined ? [] : [`, ${key} ${o[key]}`]));
  return `${o.op}(${vector}${numbers.join("")})`;
}

function formatModifiers(o: NamedOperation): string {
  const { phase, after, first, positions, tokenIds } = o.scope ?? {};
  const words = [
    phase,
    after === undefined ? undefined : `after:${after}`,
    first === undefined ? undefined : `first:${first}`,
    positions && `positions:${positions.map((p) => (typeof p === "number" ? p : p.join(".."))).join(",")}`,
    tokenIds && `tokens:${Array.from(tokenIds).join(",")}`,
    o.keepNorm && "keepnorm",
    o.schedule && `strength:${o.schedule.map((point) => point.join("=")).join(",")}`,
    o.gate && formatGate(o.gate),
  ];
  return words.map((word) => (word ? ` @${word}` : "")).join("");
}

function formatGate({ direction, site, threshold, above, cosine, latch }: NamedGate): string {
  const reading = `${cosine ? "cos " : ""}${quote(direction)}${site === undefined ? "" : `@${site}`}`;
  return `when(${reading} ${above ? ">" : "<"} ${threshold}${latch ? ", prompt" : ""})`;
}

/** Runs of layers as ranges. */
function formatSites(sites: readonly string[]): string {
  const parts: string[] = [];
  for (let i = 0; i < sites.length; ) {
    const layer = /^layers\.(\d+)(\..+)?$/.exec(sites[i]!);
    let run = 1;
    if (layer) while (sites[i + run] === `layers.${Number(layer[1]) + run}${layer[2] ?? ""}`) run++;
    parts.push(run > 1 ? `layers.${layer![1]}-${Number(layer![1]) + run - 1}${layer![2] ?? ""}` : sites[i]!);
    i += run;
  }
  return parts.join(",");
}

function quote(name: string): string {
  const plain =
    new RegExp(`^${NAME}$`).test(name) && !(CALLS as readonly string[]).includes(name) && name !== "cos";
  return plain ? name : JSON.stringify(name);
}

/**
 * The operations of a named program, vectors found by name or path.
 * @throws DataError ERR_VECTOR_UNKNOWN and what reading a vector file throws.
 */
export async function resolveProgram(program: readonly NamedOperation[]): Promise<SteeringOperation[]> {
  const operations: SteeringOperation[] = [];
  for (const { sites, vector: name, to, gate, ...rest } of program) {
    const vector = await resolveVector(name);
    const found: SteeringOperation = { ...rest, vector };
    if (to !== undefined) found.to = await resolveVector(to);
    if (gate) found.gate = { ...gate, direction: await resolveVector(gate.direction) };
    if (sites.length === 0) operations.push(found);
    for (const site of sites) operations.push({ ...found, site });
  }
  return operations;
}
