// SPDX-License-Identifier: Apache-2.0
// Free text to hide needles in, so that every essay task runs with nothing fetched. The sentences are put
// together from phrases written for this file (Apache-2.0, as the rest); the same words come out every time.
// Scores on it do not compare with scores on the essays RULER was published with.

import { PythonRandom } from "../random/python.ts";

const WORDS = 160_000;
const SEED = 20_251;

interface Topic {
  readonly thing: string;
  readonly parts: readonly string[];
  readonly people: string;
  readonly place: string;
  readonly doing: readonly string[];
  readonly trouble: readonly string[];
}

const TOPICS: readonly Topic[] = [
  {
    thing: "a garden",
    parts: [
      "the soil",
      "a row of beans",
      "the old pear tree",
      "the compost heap",
      "a bed of onions",
      "the hedge",
    ],
    people: "gardeners",
    place: "the allotments behind the station",
    doing: ["turning the beds", "watering before sunrise", "saving seed", "pruning in late winter"],
    trouble: ["a late frost", "slugs", "clay that holds the rain", "a neighbour's ivy"],
  },
  {
    thing: "a bridge",
    parts: [
      "the arch",
      "a pier in the river",
      "the parapet",
      "every rivet",
      "the approach road",
      "the foundation",
    ],
    people: "engineers",
    place: "the narrow part of the valley",
    doing: ["measuring the span", "counting the carts", "testing the stone", "drawing the same curve again"],
    trouble: ["a spring flood", "rust", "a contract signed too early", "the wind from the estuary"],
  },
  {
    thing: "bread",
    parts: [
      "the flour",
      "a good crust",
      "the starter",
      "the second rise",
      "a handful of rye",
      "the oven floor",
    ],
    people: "bakers",
    place: "a kitchen below the street",
    doing: ["kneading by hand", "waiting for the dough", "writing down the weights", "scoring the loaves"],
    trouble: ["a cold night", "weak flour", "a thermometer that lies", "haste"],
  },
  {
    thing: "a library",
    parts: [
      "the card index",
      "the reading room",
      "a shelf of almanacs",
      "the ladder",
      "the return desk",
      "a torn map",
    ],
    people: "librarians",
    place: "the upper floor of the town hall",
    doing: ["mending spines", "answering letters", "sorting by hand", "reading what nobody borrows"],
    trouble: ["damp", "a roof that leaks", "borrowers who move away", "a catalogue with two systems"],
  },
  {
    thing: "a clock",
    parts: [
      "the escapement",
      "the pendulum",
      "a worn bearing",
      "the dial",
      "the striking train",
      "a small brass wheel",
    ],
    people: "clockmakers",
    place: "a workshop with one north window",
    doing: ["filing the teeth", "listening to the beat", "cleaning the oil", "comparing it with the stars"],
    trouble: ["dust", "a bent pivot", "summer heat", "an owner who winds it too hard"],
  },
  {
    thing: "a map",
    parts: [
      "the coast line",
      "a contour",
      "the legend",
      "the scale",
      "a doubtful island",
      "the blank in the middle",
    ],
    people: "surveyors",
    place: "a tent above the tree line",
    doing: ["walking the boundary", "reading the angles twice", "asking for names", "inking the rivers last"],
    trouble: ["fog", "a stolen chain", "two villages with one name", "a magnet in the hillside"],
  },
  {
    thing: "a small orchestra",
    parts: [
      "the second violins",
      "a slow movement",
      "the oboe",
      "the rehearsal",
      "an old score",
      "the last chord",
    ],
    people: "musicians",
    place: "a school hall with a low ceiling",
    doing: ["tuning twice", "playing the passage slowly", "marking the breaths", "listening to the violas"],
    trouble: ["a cold hall", "missing parts", "an audience that coughs", "a conductor in a hurry"],
  },
  {
    thing: "a fishing boat",
    parts: ["the keel", "a patched sail", "the nets", "the tide table", "the lamp", "a locker full of rope"],
    people: "fishermen",
    place: "the harbour wall",
    doing: ["mending nets", "watching the swell", "scraping the hull", "leaving before the light"],
    trouble: ["a north-easter", "an empty season", "a fouled anchor", "the price of salt"],
  },
  {
    thing: "a school",
    parts: [
      "the first lesson",
      "a difficult question",
      "the blackboard",
      "the long break",
      "a spelling list",
      "the bell",
    ],
    people: "teachers",
    place: "the building next to the mill",
    doing: ["explaining it a third way", "reading aloud", "marking by lamplight", "asking the quiet ones"],
    trouble: ["forty children in one room", "a hard winter", "a book with mistakes", "an inspector"],
  },
  {
    thing: "a telescope",
    parts: [
      "the mirror",
      "a faint star",
      "the mounting",
      "the log book",
      "the eyepiece",
      "a night without moon",
    ],
    people: "astronomers",
    place: "a hill far from the lamps",
    doing: [
      "polishing glass",
      "waiting for the air to settle",
      "drawing what is seen",
      "checking the tables",
    ],
    trouble: ["cloud", "dew on the glass", "a clock that drifts", "a wish to see more than there is"],
  },
  {
    thing: "a railway",
    parts: [
      "the signal box",
      "a goods train",
      "the timetable",
      "the level crossing",
      "the points",
      "a wet platform",
    ],
    people: "railwaymen",
    place: "the junction on the plain",
    doing: ["oiling the points", "walking the line", "selling the last ticket", "waiting for the down train"],
    trouble: ["ice", "a landslip", "a rule nobody remembers", "one late connection"],
  },
  {
    thing: "a letter",
    parts: [
      "the opening line",
      "a blot",
      "the postscript",
      "the envelope",
      "a copied paragraph",
      "the signature",
    ],
    people: "correspondents",
    place: "a desk by the stairs",
    doing: ["writing a draft", "crossing out adjectives", "waiting a day", "reading the answer again"],
    trouble: ["a slow post", "bad ink", "too many reasons", "an address that changed"],
  },
];

const OPENERS = [
  "Most people who begin with {thing} look first at {part} and only later at {part2}.",
  "I once asked {people} what they would miss most, and they spoke of {part}.",
  "There is a stage at which {thing} seems finished, and it is usually then that {trouble} arrives.",
  "What nobody tells you about {thing} is how much of it is {doing}.",
  "It took me years to see that {part} matters more than {part2}.",
  "The best thing I know about {thing} I learned in {place}.",
];

const MIDDLES = [
  "You can spend a whole {season} on {part} and still be surprised by {part2}.",
  "The {people} I admire are not the quick ones; they are the ones who keep {doing} when it is dull.",
  "If you ask why, you are told a story about {trouble}, and the story is different each time.",
  "In {place} this is so plain that no one says it.",
  "That is why {doing} comes before {doing2}, and not the other way round.",
  "It would be easy to blame {trouble}, but {part} was neglected long before.",
  "A visitor sees {part}; someone who has worked there sees {part2}.",
  "Half of the work is {doing}, and the other half is knowing when to stop.",
  "There were {count} of us that {season}, and we disagreed about {part} every single day.",
  "Nothing is proved by one success, and {trouble} proves very little either.",
  "When {trouble} comes, the plans made on paper are put away and someone starts {doing}.",
  "Some {people} keep notes about {part}, and the notes outlive them.",
  "For a while we tried to do without {part}, which taught us what it had been for.",
  "The rule about {part} was written down after {trouble}, and it still smells of that year.",
  "I do not think that {doing} can be taught, but it can be watched.",
  "Whoever says that {part} is simple has not looked at it in bad light.",
  "Cheap {tools} make {doing} harder, yet expensive ones do not make it easy.",
  "By the end of the {season} there was less to say about {part2} and more to do.",
  "Between {doing} and {doing2} lies a kind of patience that looks like idleness.",
  "It is better to have {part} in order than to have an opinion about it.",
  "An old hand in {place} could tell from across the yard that something was wrong with {part}.",
  "We lost {count} days to {trouble}, and gained from it a habit of {doing}.",
];

const CLOSERS = [
  "So when someone asks me about {thing}, I talk about {part}, and wait.",
  "None of this is secret, and yet every generation of {people} finds it out alone.",
  "Perhaps that is all that experience means: {trouble}, and then {doing}, and then another {season}.",
  "The rest is detail, though {people} will tell you that the detail is the rest.",
  "I still go back to {place} now and then, mostly to look at {part2}.",
];

const SEASONS = ["summer", "winter", "spring", "autumn", "year", "month"];
const COUNTS = ["three", "four", "five", "six", "seven", "nine", "eleven", "a dozen"];
const TOOLS = ["tools", "brushes", "instruments", "materials", "ledgers", "lamps"];

/** About 160,000 words of essays; longer haystacks repeat them. */
export function builtInEssays(): string {
  const random = new PythonRandom(SEED);
  const paragraphs: string[] = [];
  for (let words = 0; words < WORDS; ) {
    const topic = random.choice(TOPICS);
    const middles = random.sample(MIDDLES, 4 + random.randbelow(6));
    const lines = [random.choice(OPENERS), ...middles, random.choice(CLOSERS)];
    const paragraph = lines.map((line) => fill(line, topic, random)).join(" ");
    words += paragraph.split(" ").length;
    paragraphs.push(paragraph);
  }
  return paragraphs.join("\n\n");
}

function fill(line: string, topic: Topic, random: PythonRandom): string {
  const [part, part2] = random.sample(topic.parts, 2);
  const [doing, doing2] = random.sample(topic.doing, 2);
  const values: Record<string, string> = {
    thing: topic.thing,
    people: topic.people,
    place: topic.place,
    part: part!,
    part2: part2!,
    doing: doing!,
    doing2: doing2!,
    trouble: random.choice(topic.trouble),
    season: random.choice(SEASONS),
    count: random.choice(COUNTS),
    tools: random.choice(TOOLS),
  };
  const text = line.replace(/\{(\w+)\}/g, (_, name: string) => values[name]!);
  return text.charAt(0).toUpperCase() + text.slice(1);
}
