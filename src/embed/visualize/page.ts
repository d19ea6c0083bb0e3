// SPDX-License-Identifier: Apache-2.0
// One self-contained page: style, script and points in one file, nothing fetched from anywhere.

import { CLIENT_SOURCE } from "./client-source.ts";
import type { PointSet } from "./points.ts";

const STYLE = `
:root { color-scheme: light dark; --back: #fbfbfc; --ink: #1c1f24; --soft: #6b7280; --line: #d9dce1; --card: #ffffffee; }
@media (prefers-color-scheme: dark) { :root { --back: #14161a; --ink: #e7e9ec; --soft: #9aa1ab; --line: #31353c; --card: #1d2026ee; } }
* { box-sizing: border-box; }
html, body { margin: 0; height: 100%; background: var(--back); color: var(--ink); font: 14px/1.45 system-ui, sans-serif; }
main { position: fixed; inset: 0; }
canvas { position: absolute; inset: 0; width: 100%; height: 100%; }
#overlay { cursor: grab; touch-action: none; }
header, aside, #tip { position: absolute; background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
header { top: 12px; left: 12px; display: flex; flex-wrap: wrap; gap: 8px; align-items: center; padding: 8px 10px; max-width: calc(100% - 24px); }
header h1 { font-size: 14px; margin: 0 6px 0 0; font-weight: 600; }
#status { color: var(--soft); min-width: 11em; }
input, select, button { font: inherit; color: inherit; background: transparent; border: 1px solid var(--line); border-radius: 6px; padding: 3px 8px; }
select option { color: #1c1f24; }
button { cursor: pointer; } button:disabled { opacity: .4; cursor: default; } button.on { border-color: #508cff; color: #508cff; }
#search { width: 13em; } #size { width: 6em; padding: 0; }
#legend { position: absolute; left: 12px; bottom: 12px; max-height: 45%; overflow: auto; padding: 6px 10px; background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
#legend:empty { display: none; }
.entry { display: flex; gap: 6px; align-items: center; white-space: nowrap; } .dot { width: 10px; height: 10px; border-radius: 5px; flex: none; }
#panel { right: 12px; top: 68px; width: min(400px, 40%); max-height: calc(100% - 80px); overflow: auto; padding: 10px 14px; }
#panel h2 { font-size: 14px; margin: 0 0 6px; } #panel dl { display: grid; grid-template-columns: auto 1fr; gap: 2px 10px; margin: 0 0 8px; color: var(--soft); }
#panel dd { margin: 0; overflow-wrap: anywhere; } .text { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; }
#tip { pointer-events: none; padding: 5px 9px; max-width: 330px; overflow-wrap: anywhere; }
[hidden] { display: none !important; }
`;

function escapeHtml(text: string): string {
  return text.replace(
    /[&<>"]/g,
    (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c] as string,
  );
}

function base64(values: Float32Array): string {
  return Buffer.from(values.buffer, values.byteOffset, values.byteLength).toString("base64");
}

/** The page as HTML. `served`: a click asks the server for the full row. */
export function visualPage(points: PointSet, options: { title: string; served: boolean }): string {
  const payload = JSON.stringify({
    rows: points.rows,
    dims: points.dims,
    positions: base64(points.positions),
    columns: points.columns.map((column) => ({ ...column, values: base64(column.values) })),
    text: points.text,
    ids: points.ids,
    served: options.served,
  }).replaceAll("<", "\\u003c");
  const title = escapeHtml(options.title);
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:">
<title>${title}</title>
<style>${STYLE}</style>
</head>
<body>
<main>
<canvas id="plot" aria-label="scatter of ${points.rows} points"></canvas>
<canvas id="overlay"></canvas>
<header>
<h1>${title}</h1>
<span id="status" role="status"></span>
<label>colour <select id="colour"></select></label>
<input id="search" type="search" placeholder="search text or row id" aria-label="search">
<button id="lasso" title="draw around points (l)">lasso</button>
<button id="export" disabled title="ids of the selected points as JSON">export ids</button>
<label>size <input id="size" type="range" min="1" max="14" step="0.5"></label>
<button id="reset">reset</button>
</header>
<div id="legend"></div>
<aside id="panel" hidden></aside>
<div id="tip" hidden></div>
</main>
<script type="application/json" id="points">${payload}</script>
<script>${CLIENT_SOURCE}</script>
</body>
</html>
`;
}
