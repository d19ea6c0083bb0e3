// SPDX-License-Identifier: Apache-2.0
// Questions over invented towns and people, so that the qa tasks run with nothing fetched. No model has read
// of them, so no answer comes from memory; scores do not compare with those on SQuAD and HotpotQA.

import { PythonRandom } from "../random/python.ts";
import { type QuestionSet, readHotpot, readSquad } from "./questions.ts";

const TOWNS = 320;
const SEED = 20_252;

const HEADS = [
  "Bal",
  "Cor",
  "Dun",
  "El",
  "Far",
  "Gil",
  "Hes",
  "Il",
  "Jor",
  "Kel",
  "Lor",
  "Mar",
  "Nor",
  "Os",
  "Pel",
];
const MIDDLES = ["a", "e", "i", "o", "u", "an", "en", "in", "or", "ar", "el", "im"];
const TAILS = [
  "bridge",
  "dale",
  "ford",
  "ham",
  "mere",
  "mouth",
  "stead",
  "ton",
  "wick",
  "worth",
  "by",
  "combe",
];
const FIRST = [
  "Ada",
  "Bela",
  "Cyril",
  "Dora",
  "Emil",
  "Flora",
  "Gustav",
  "Hedda",
  "Ivo",
  "Judith",
  "Karl",
  "Lena",
];
const TRADES = [
  "glassmaker",
  "cartographer",
  "bell founder",
  "botanist",
  "shipwright",
  "printer",
  "weaver",
  "astronomer",
];
const GOODS = [
  "blue pottery",
  "smoked trout",
  "church bells",
  "linen",
  "paper",
  "cider",
  "barometers",
  "slate",
];
const BUILDINGS = [
  "the Corn Exchange",
  "the Old Mint",
  "the Water Tower",
  "the Customs House",
  "the Rope Walk",
];
const RIVERS = [
  "Arn",
  "Bess",
  "Calder",
  "Dove",
  "Esk",
  "Frome",
  "Gara",
  "Hull",
  "Isen",
  "Lune",
  "Mole",
  "Nidd",
];

interface Town {
  readonly name: string;
  readonly founded: number;
  readonly river: string;
  readonly goods: string;
  readonly building: string;
  readonly built: number;
  readonly people: number;
  readonly person: string;
  readonly trade: string;
  readonly born: number;
  readonly twin: number;
}

function makeTowns(): Town[] {
  const random = new PythonRandom(SEED);
  const names = new Set<string>();
  while (names.size < TOWNS) names.add(random.choice(HEADS) + random.choice(MIDDLES) + random.choice(TAILS));
  const surnames = new Set<string>();
  while (surnames.size < TOWNS)
    surnames.add(
      `${random.choice(HEADS)}${random.choice(MIDDLES)}${random.choice(["ski", "sen", "man", "ley", "ov", "ert"])}`,
    );
  const family = [...surnames];
  return [...names].map((name, i) => {
    const founded = random.randint(902, 1680);
    return {
      name,
      founded,
      river: random.choice(RIVERS),
      goods: random.choice(GOODS),
      building: random.choice(BUILDINGS),
      built: random.randint(founded + 20, 1890),
      people: random.randint(18, 940) * 100,
      person: `${random.choice(FIRST)} ${family[i]}`,
      trade: random.choice(TRADES),
      born: random.randint(1700, 1899),
      twin: (i + 1 + random.randbelow(TOWNS - 1)) % TOWNS,
    };
  });
}

function townText(t: Town): string {
  return (
    `${t.name} is a market town on the River ${t.river}. It was founded in ${t.founded} and had ` +
    `${t.people.toLocaleString("en-US")} inhabitants at the last count. The town is known for its ${t.goods}, ` +
    `which were sold as far as the coast. Most visitors come to see ${t.building}, completed in ${t.built}.`
  );
}

function personText(t: Town): string {
  return (
    `${t.person} (born ${t.born}) was a ${t.trade} from ${t.name}. The workshop stood near ${t.building} until a ` +
    `fire, and its account books are kept in the town archive. Pupils came from all the towns along the ` +
    `River ${t.river}.`
  );
}

let towns: readonly Town[] | undefined;

/** A set in the place of SQuAD (one paragraph answers) or HotpotQA (two documents are needed). */
export function builtInQuestions(dataset: "squad" | "hotpotqa"): QuestionSet {
  towns ??= makeTowns();
  return dataset === "squad" ? oneParagraph(towns) : twoDocuments(towns);
}

function oneParagraph(all: readonly Town[]): QuestionSet {
  const ask = (question: string, ...answers: string[]) => ({
    question,
    answers: answers.map((text) => ({ text })),
    is_impossible: false,
  });
  const data = all.map((t) => ({
    title: t.name,
    paragraphs: [
      {
        context: townText(t),
        qas: [
          ask(`In what year was ${t.name} founded?`, String(t.founded)),
          ask(`What is ${t.name} known for?`, t.goods),
        ],
      },
      { context: personText(t), qas: [ask(`What was the trade of ${t.person}?`, t.trade, `a ${t.trade}`)] },
    ],
  }));
  return readSquad({ version: "v2.0", data }, "built-in questions");
}

function twoDocuments(all: readonly Town[]): QuestionSet {
  const random = new PythonRandom(SEED + 1);
  const rows = all.flatMap((t, i) => {
    const documents = (own: Array<[string, string[]]>): Array<[string, string[]]> => {
      const others = random
        .sampleIndices(all.length, 12)
        .filter((j) => j !== i && j !== t.twin)
        .slice(0, 10 - own.length)
        .map((j): [string, string[]] =>
          j % 2 === 0 ? [all[j]!.name, [townText(all[j]!)]] : [all[j]!.person, [personText(all[j]!)]],
        );
      return [...own, ...others];
    };
    const twin = all[t.twin]!;
    return [
      {
        question: `In what year was the home town of the ${t.trade} ${t.person} founded?`,
        answer: String(t.founded),
        context: documents([
          [t.person, [personText(t)]],
          [t.name, [townText(t)]],
        ]),
      },
      {
        question: `Which town was founded first, ${t.name} or ${twin.name}?`,
        answer: t.founded <= twin.founded ? t.name : twin.name,
        context: documents([
          [t.name, [townText(t)]],
          [twin.name, [townText(twin)]],
        ]),
      },
    ];
  });
  return readHotpot(rows, "built-in questions");
}
