// SPDX-License-Identifier: Apache-2.0
// The two question sets in their own formats: SQuAD 2.0's dev set and HotpotQA's distractor dev set
// (both CC BY-SA 4.0, fetched or given, never shipped).

import { DataError } from "../../errors.ts";
import { compareCodePoints } from "../text/python-text.ts";

export interface Question {
  readonly query: string;
  /** Every accepted answer; doubles are kept. */
  readonly outputs: readonly string[];
  /** Documents that hold the answer, as indexes. */
  readonly own: readonly number[];
  /** Other paragraphs of the same article; taken before documents of others. */
  readonly related: readonly number[];
}

export interface QuestionSet {
  readonly documents: readonly string[];
  readonly questions: readonly Question[];
}

interface SquadFile {
  data: Array<{
    paragraphs: Array<{
      context: string;
      qas: Array<{ question: string; is_impossible?: boolean; answers: Array<{ text: string }> }>;
    }>;
  }>;
}

type HotpotFile = Array<{ question: string; answer: string; context: Array<[string, string[]]> }>;

function distinctDocuments(all: string[]): { documents: string[]; idOf: Map<string, number> } {
  const documents = [...new Set(all)].sort(compareCodePoints);
  return { documents, idOf: new Map(documents.map((text, i) => [text, i])) };
}

/** @throws DataError ERR_RULER_DATA where the file has another form */
export function readSquad(json: unknown, where: string): QuestionSet {
  return guarded(where, "SQuAD 2.0", () => {
    const { data } = json as SquadFile;
    const { documents, idOf } = distinctDocuments(data.flatMap((a) => a.paragraphs.map((p) => p.context)));
    const questions: Question[] = [];
    for (const article of data) {
      const ids = article.paragraphs.map((p) => idOf.get(p.context)!);
      for (const { context, qas } of article.paragraphs) {
        const own = idOf.get(context)!;
        const related = ids.filter((id) => id !== own);
        for (const qa of qas)
          if (!qa.is_impossible)
            questions.push({
              query: qa.question,
              outputs: qa.answers.map((a) => a.text),
              own: [own],
              related,
            });
      }
    }
    return { documents, questions };
  });
}

/** @throws DataError ERR_RULER_DATA where the file has another form */
export function readHotpot(json: unknown, where: string): QuestionSet {
  return guarded(where, "HotpotQA (distractor, upstream's schema)", () => {
    const rows = json as HotpotFile;
    const textOf = ([title, parts]: [string, string[]]) => `${title}\n${parts.join("")}`;
    const { documents, idOf } = distinctDocuments(rows.flatMap((row) => row.context.map(textOf)));
    const questions = rows.map((row) => ({
      query: row.question,
      outputs: [row.answer],
      own: row.context.map((c) => idOf.get(textOf(c))!),
      related: [],
    }));
    return { documents, questions };
  });
}

function guarded(where: string, format: string, read: () => QuestionSet): QuestionSet {
  let set: QuestionSet;
  try {
    set = read();
  } catch (cause) {
    throw new DataError("ERR_RULER_DATA", `${where}: expected ${format} JSON: ${(cause as Error).message}`, {
      details: { file: where, expected: format },
      remedies: ["fetch it again with `chatspace-steer ruler data`"],
      cause,
    });
  }
  if (set.questions.length === 0)
    throw new DataError("ERR_RULER_DATA", `${where}: no question with an answer in it`, {
      details: { file: where, expected: format },
    });
  return set;
}
