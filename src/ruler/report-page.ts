// SPDX-License-Identifier: Apache-2.0
// The report as one HTML file that needs nothing beside itself: charts as inline SVG, a table under them, a
// switch for tasks. Readable without script, in light and dark, and on paper.

import { lengthName } from "./prepare.ts";
import { EFFECTIVE, type Report, type ReportCell } from "./report.ts";

const COLOURS = ["#2f6fb5", "#c8553d", "#3f8f5b", "#8a5fb0", "#b5892f", "#4a9aa5", "#a5486f", "#6b6b6b"];
const WIDTH = 440;
const HEIGHT = 230;
const EDGE = { left: 38, right: 16, top: 12, bottom: 30 };

export interface PageOptions {
  readonly title?: string;
}

export function reportPage(report: Report, options: PageOptions = {}): string {
  const title = options.title ?? "RULER report";
  const average = report.averages.map(
    (a): ReportCell => ({
      ...{ task: "average", length: a.length, label: a.label, score: a.score, nulls: "" },
      interval: { mean: a.score, low: a.score, high: a.score, count: a.tasks },
    }),
  );
  const charts = ["average", ...report.tasks].map((task) =>
    chartSection(task, task === "average" ? average : report.cells.filter((c) => c.task === task), report),
  );
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escapeHtml(title)}</title>
<style>${STYLE}</style>
</head>
<body>
<h1>${escapeHtml(title)}</h1>
<p class="legend">${report.labels.map((label, i) => legendItem(label, i)).join("")}</p>
<p class="note">Scores out of 100. Bars are 95 % bootstrap intervals over samples (seeded); the average is the plain mean over tasks.</p>
<nav><label>Show <select id="pick"><option value="">all tasks</option>${["average", ...report.tasks]
    .map((t) => `<option>${escapeHtml(t)}</option>`)
    .join("")}</select></label></nav>
<main>
${charts.join("\n")}
</main>
<h2>Scores</h2>
${scoreTable(report)}
${overallTable(report)}
${differenceTable(report)}
<script>
document.getElementById("pick").addEventListener("change", (event) => {
  for (const section of document.querySelectorAll("section"))
    section.hidden = event.target.value !== "" && section.dataset.task !== event.target.value;
});
</script>
</body>
</html>
`;
}

const STYLE = `
:root { color-scheme: light dark; --ink: #222; --soft: #777; --line: #ddd; --paper: #fff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --soft: #9a9a9a; --line: #3a3a3a; --paper: #181818; } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1360px; padding: 0 1rem; color: var(--ink); background: var(--paper); }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2rem; } h3 { font-size: 1rem; margin: 0 0 .3rem; }
.legend span { margin-right: 1.4rem; white-space: nowrap; } .legend i { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .4em; }
.note { color: var(--soft); }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)); gap: 1.2rem; }
section { border: 1px solid var(--line); border-radius: 6px; padding: .8rem; } section[hidden] { display: none; }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--soft); font-size: 12px; } svg .grid { stroke: var(--line); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; display: block; overflow-x: auto; } th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; } th:first-child, td:first-child { text-align: left; } td small { color: var(--soft); }
.down { color: #c8553d; } .up { color: #3f8f5b; }
@media print { nav { display: none; } section { break-inside: avoid; } }
`;

function legendItem(label: string, i: number): string {
  return `<span><i style="background:${COLOURS[i % COLOURS.length]}"></i>${escapeHtml(label)}</span>`;
}

function chartSection(task: string, cells: readonly ReportCell[], report: Report): string {
  return `<section data-task="${escapeHtml(task)}"><h3>${escapeHtml(task)}</h3>${chart(task, cells, report)}</section>`;
}

function chart(task: string, cells: readonly ReportCell[], { lengths, labels }: Report): string {
  const inner = WIDTH - EDGE.left - EDGE.right;
  const step = lengths.length > 1 ? inner / (lengths.length - 1) : 0;
  const x = (length: number) =>
    lengths.length > 1 ? EDGE.left + lengths.indexOf(length) * step : EDGE.left + inner / 2;
  const y = (score: number) => EDGE.top + (1 - score / 100) * (HEIGHT - EDGE.top - EDGE.bottom);
  const grid = [0, 25, 50, 75, 100].map(
    (v) =>
      `<line class="grid" x1="${EDGE.left}" x2="${WIDTH - EDGE.right}" y1="${y(v)}" y2="${y(v)}"/>` +
      `<text x="${EDGE.left - 8}" y="${y(v) + 4}" text-anchor="end">${v}</text>`,
  );
  const axis = lengths.map(
    (l) => `<text x="${x(l)}" y="${HEIGHT - 10}" text-anchor="middle">${lengthName(l)}</text>`,
  );
  const series = labels.map((label, i) => {
    const own = cells.filter((c) => c.label === label).sort((a, b) => a.length - b.length);
    const colour = COLOURS[i % COLOURS.length]!;
    // A little apart, so that equal scores stay visible.
    const shift = (i - (labels.length - 1) / 2) * 5;
    const points = own.map((c) => `${(x(c.length) + shift).toFixed(1)},${y(c.score).toFixed(1)}`).join(" ");
    const marks = own.map((c) => {
      const cx = (x(c.length) + shift).toFixed(1);
      const { low, high, count } = c.interval;
      const told = `${label}, ${lengthName(c.length)}: ${c.score.toFixed(2)} [${low.toFixed(1)}, ${high.toFixed(1)}], n ${count}`;
      return (
        `<line x1="${cx}" x2="${cx}" y1="${y(low).toFixed(1)}" y2="${y(high).toFixed(1)}" stroke="${colour}" stroke-width="2" opacity=".5"/>` +
        `<circle cx="${cx}" cy="${y(c.score).toFixed(1)}" r="4" fill="${colour}"><title>${escapeHtml(told)}</title></circle>`
      );
    });
    return `<polyline points="${points}" fill="none" stroke="${colour}" stroke-width="2"/>${marks.join("")}`;
  });
  return `<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${escapeHtml(task)}: score by length">${grid.join("")}${axis.join("")}${series.join("")}</svg>`;
}

function scoreTable({ tasks, lengths, labels, cells, averages }: Report): string {
  const columns = lengths.flatMap((length) => labels.map((label) => ({ length, label })));
  const head = columns.map(
    (c) => `<th>${lengthName(c.length)}<br><small>${escapeHtml(c.label)}</small></th>`,
  );
  const rows = tasks.map((task) => {
    const tds = columns.map(({ length, label }) => {
      const cell = cells.find((c) => c.task === task && c.length === length && c.label === label);
      if (!cell) return "<td></td>";
      const { low, high, count } = cell.interval;
      return `<td>${cell.score.toFixed(2)} <small>[${low.toFixed(1)}, ${high.toFixed(1)}] n ${count}, empty ${cell.nulls}</small></td>`;
    });
    return `<tr><td>${escapeHtml(task)}</td>${tds.join("")}</tr>`;
  });
  const mean = columns.map(({ length, label }) => {
    const found = averages.find((a) => a.length === length && a.label === label);
    return `<td>${found ? `<b>${found.score.toFixed(2)}</b> <small>${found.tasks} tasks</small>` : ""}</td>`;
  });
  return `<table><thead><tr><th>task</th>${head.join("")}</tr></thead><tbody>${rows.join("")}<tr><td><b>average</b></td>${mean.join("")}</tr></tbody></table>`;
}

function overallTable({ overall, lengths }: Report): string {
  if (lengths.length < 2) return "";
  const rows = overall.map(({ label, mean, longer, shorter, effectiveLength }) => {
    const usable =
      effectiveLength === undefined ? `below ${lengthName(lengths[0]!)}` : lengthName(effectiveLength);
    const cells = [mean, longer, shorter].map((v) => `<td>${v.toFixed(2)}</td>`).join("");
    return `<tr><td>${escapeHtml(label)}</td>${cells}<td>${usable}</td></tr>`;
  });
  return `<h2>Over lengths</h2><p class="note">Weighted means count longer (or shorter) lengths more, in steps of one. Effective length: the longest with an average of ${EFFECTIVE} or more.</p>
<table><thead><tr><th>run</th><th>mean</th><th>weighted to longer</th><th>weighted to shorter</th><th>effective length</th></tr></thead><tbody>${rows.join("")}</tbody></table>`;
}

function differenceTable({ differences }: Report): string {
  if (differences.length === 0) return "";
  const rows = differences.map(({ task, length, label, against, interval: { mean, low, high, count } }) => {
    const way = high < 0 ? "down" : low > 0 ? "up" : "";
    return `<tr><td>${escapeHtml(task)}</td><td>${lengthName(length)}</td><td>${escapeHtml(label)} − ${escapeHtml(against)}</td><td class="${way}">${signed(mean)}</td><td>[${signed(low)}, ${signed(high)}]</td><td>${count}</td></tr>`;
  });
  return `<h2>Steered against not</h2><p class="note">Differences over the same prompts; coloured where the interval leaves zero out.</p>
<table><thead><tr><th>task</th><th>length</th><th>runs</th><th>difference</th><th>95 % interval</th><th>pairs</th></tr></thead><tbody>${rows.join("")}</tbody></table>`;
}

function signed(value: number): string {
  return `${value > 0 ? "+" : ""}${value.toFixed(2)}`;
}

function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
}
