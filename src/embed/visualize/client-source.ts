// SPDX-License-Identifier: Apache-2.0
// The script of the page, as text: it runs in a browser, needs nothing from a network, and must travel
// inside one exported file. WebGL draws the points; picking projects them on the processor.

export const CLIENT_SOURCE = String.raw`
"use strict";
(() => {
const data = JSON.parse(document.getElementById("points").textContent);
const floats = (text) => {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return new Float32Array(bytes.buffer);
};
const rows = data.rows, dims = data.dims;
const positions = floats(data.positions);
const columns = data.columns.map((c) => ({ ...c, values: floats(c.values) }));
const texts = data.text, ids = data.ids, served = data.served;
const $ = (id) => document.getElementById(id);
const canvas = $("plot"), overlay = $("overlay"), tip = $("tip"), panel = $("panel");
const gl = canvas.getContext("webgl2", { antialias: true, preserveDrawingBuffer: true });
if (!gl) { $("status").textContent = "this browser has no WebGL 2"; return; }

// Centre and scale once, so that the view starts with everything in it.
const centre = [0, 0, 0], low = [1/0, 1/0, 1/0], high = [-1/0, -1/0, -1/0];
for (let i = 0; i < rows; i++) for (let c = 0; c < 3; c++) {
  const v = positions[i * 3 + c];
  if (v < low[c]) low[c] = v;
  if (v > high[c]) high[c] = v;
}
let span = 1e-9;
for (let c = 0; c < 3; c++) { centre[c] = (low[c] + high[c]) / 2 || 0; span = Math.max(span, high[c] - low[c] || 0); }
const points = new Float32Array(rows * 3);
for (let i = 0; i < rows; i++) for (let c = 0; c < 3; c++) points[i * 3 + c] = (positions[i * 3 + c] - centre[c]) * 1.8 / span;

const compile = (type, source) => {
  const shader = gl.createShader(type);
  gl.shaderSource(shader, source);
  gl.compileShader(shader);
  if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
  return shader;
};
const program = gl.createProgram();
gl.attachShader(program, compile(gl.VERTEX_SHADER, "#version 300 es\n" +
  "in vec3 at; in vec4 colour; in float state; uniform mat4 view; uniform float size; out vec4 shade;\n" +
  "void main() { gl_Position = view * vec4(at, 1.0); float big = state > 1.5 ? 2.2 : 1.0;\n" +
  "gl_PointSize = size * big; shade = state < 0.5 ? vec4(0.55, 0.55, 0.55, 0.12) : colour; }"));
gl.attachShader(program, compile(gl.FRAGMENT_SHADER, "#version 300 es\nprecision mediump float;\n" +
  "in vec4 shade; out vec4 pixel;\n" +
  "void main() { vec2 d = gl_PointCoord - 0.5; float r = dot(d, d); if (r > 0.25) discard; pixel = vec4(shade.rgb, shade.a * smoothstep(0.25, 0.16, r)); }"));
gl.linkProgram(program);
gl.useProgram(program);
const buffer = (name, array, size, type, normal, usage) => {
  const id = gl.createBuffer(), place = gl.getAttribLocation(program, name);
  gl.bindBuffer(gl.ARRAY_BUFFER, id);
  gl.bufferData(gl.ARRAY_BUFFER, array, usage);
  gl.enableVertexAttribArray(place);
  gl.vertexAttribPointer(place, size, type, normal, 0, 0);
  return id;
};
const colours = new Uint8Array(rows * 4), states = new Uint8Array(rows).fill(1);
buffer("at", points, 3, gl.FLOAT, false, gl.STATIC_DRAW);
const colourBuffer = buffer("colour", colours, 4, gl.UNSIGNED_BYTE, true, gl.DYNAMIC_DRAW);
const stateBuffer = buffer("state", states, 1, gl.UNSIGNED_BYTE, false, gl.DYNAMIC_DRAW);
gl.enable(gl.BLEND);
gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA);

let zoom = 1, panX = 0, panY = 0, yaw = dims === 3 ? 0.6 : 0, pitch = dims === 3 ? 0.4 : 0, size = Math.max(2.5, Math.min(9, 900 / Math.sqrt(rows)));
const hidden = new Set();
let selected = null, found = null, column = null, lasso = null, mode = "move", frames = 0, scriptMs = 0;

const viewMatrix = () => {
  const aspect = canvas.clientWidth / Math.max(canvas.clientHeight, 1);
  const sx = zoom / Math.max(aspect, 1), sy = zoom * Math.min(aspect, 1);
  const cy = Math.cos(yaw), sY = Math.sin(yaw), cp = Math.cos(pitch), sp = Math.sin(pitch);
  // Column-major: rotation by yaw then pitch, scale, shift; depth squeezed to stay inside the clip space.
  return new Float32Array([sx * cy, sy * sp * sY, 0.2 * -cp * sY, 0, 0, sy * cp, 0.2 * sp, 0, sx * sY, sy * -sp * cy, 0.2 * cp * cy, 0, panX, panY, 0, 1]);
};
let drawn = false;
const draw = () => {
  if (drawn) return;
  drawn = true;
  requestAnimationFrame(() => {
    drawn = false;
    const began = performance.now();
    const ratio = window.devicePixelRatio || 1;
    const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
    if (canvas.width !== width || canvas.height !== height) { canvas.width = overlay.width = width; canvas.height = overlay.height = height; }
    gl.viewport(0, 0, width, height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.uniformMatrix4fv(gl.getUniformLocation(program, "view"), false, viewMatrix());
    gl.uniform1f(gl.getUniformLocation(program, "size"), size * ratio * Math.min(2, Math.sqrt(zoom)));
    gl.drawArrays(gl.POINTS, 0, rows);
    frames++;
    const g = overlay.getContext("2d");
    g.clearRect(0, 0, width, height);
    if (lasso) {
      g.beginPath();
      lasso.forEach(([x, y], i) => i ? g.lineTo(x * ratio, y * ratio) : g.moveTo(x * ratio, y * ratio));
      g.closePath();
      g.fillStyle = "rgba(80,140,255,.15)"; g.strokeStyle = "rgb(80,140,255)"; g.lineWidth = 1.5 * ratio;
      g.fill(); g.stroke();
    }
    scriptMs += performance.now() - began;
  });
};
const screen = (i, m, w, h) => {
  const x = points[i * 3], y = points[i * 3 + 1], z = points[i * 3 + 2];
  return [(m[0] * x + m[4] * y + m[8] * z + m[12] + 1) * w / 2, (1 - (m[1] * x + m[5] * y + m[9] * z + m[13])) * h / 2];
};
const pick = (px, py) => {
  const m = viewMatrix(), w = canvas.clientWidth, h = canvas.clientHeight;
  let best = -1, nearest = 144;
  for (let i = 0; i < rows; i++) {
    if (states[i] === 0) continue;
    const x = points[i * 3], y = points[i * 3 + 1], z = points[i * 3 + 2];
    const dx = (m[0] * x + m[4] * y + m[8] * z + m[12] + 1) * w / 2 - px;
    const dy = (1 - (m[1] * x + m[5] * y + m[9] * z + m[13])) * h / 2 - py;
    const d = dx * dx + dy * dy;
    if (d < nearest) { nearest = d; best = i; }
  }
  return best;
};

// Colours: evenly spread hues for labels, a dark-to-bright scale for amounts.
const hue = (code) => {
  const h = (code * 0.61803398875 + 0.07) % 1, s = 0.65, v = code % 2 ? 0.75 : 0.9;
  const f = (n) => { const k = (n + h * 6) % 6; return Math.round(255 * (v - v * s * Math.max(0, Math.min(k, 4 - k, 1)))); };
  return [f(5), f(3), f(1)];
};
const scale = (t) => {
  const stops = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
  const x = Math.max(0, Math.min(0.9999, t)) * 4, i = Math.floor(x), f = x - i;
  return [0, 1, 2].map((c) => Math.round(stops[i][c] + (stops[i + 1][c] - stops[i][c]) * f));
};
const text = (tag, content, name) => { const e = document.createElement(tag); e.textContent = content; if (name) e.className = name; return e; };
const recolour = () => {
  let least = 1/0, most = -1/0;
  if (column && column.kind === "number") for (const v of column.values) { if (v < least) least = v; if (v > most) most = v; }
  const cache = new Map();
  for (let i = 0; i < rows; i++) {
    let rgb = [90, 140, 220];
    if (column) {
      const v = column.values[i];
      if (Number.isNaN(v)) rgb = [130, 130, 130];
      else if (column.kind === "number") rgb = scale((v - least) / (most - least || 1));
      else { rgb = cache.get(v) || hue(v); cache.set(v, rgb); }
    }
    colours[i * 4] = rgb[0]; colours[i * 4 + 1] = rgb[1]; colours[i * 4 + 2] = rgb[2]; colours[i * 4 + 3] = 215;
  }
  gl.bindBuffer(gl.ARRAY_BUFFER, colourBuffer);
  gl.bufferData(gl.ARRAY_BUFFER, colours, gl.DYNAMIC_DRAW);
  const legend = $("legend");
  legend.replaceChildren();
  if (column && column.kind === "category") {
    const counts = new Map();
    for (const v of column.values) counts.set(v, (counts.get(v) || 0) + 1);
    column.labels.slice(0, 60).forEach((label, code) => {
      const entry = text("label", "", "entry"), box = document.createElement("input"), dot = text("span", "", "dot");
      box.type = "checkbox"; box.checked = !hidden.has(code); box.dataset.label = label;
      box.onchange = () => { box.checked ? hidden.delete(code) : hidden.add(code); restate(); };
      dot.style.background = "rgb(" + hue(code).join(",") + ")";
      entry.append(box, dot, text("span", label + " (" + (counts.get(code) || 0) + ")"));
      legend.append(entry);
    });
  } else if (column) legend.append(text("div", least.toPrecision(4) + " to " + most.toPrecision(4)));
  draw();
};
const restate = () => {
  let shown = 0;
  const marked = selected || found;
  for (let i = 0; i < rows; i++) {
    const off = column && column.kind === "category" && hidden.has(column.values[i]);
    states[i] = off ? 0 : marked ? (marked.has(i) ? 2 : 0) : 1;
    if (states[i]) shown++;
  }
  gl.bindBuffer(gl.ARRAY_BUFFER, stateBuffer);
  gl.bufferData(gl.ARRAY_BUFFER, states, gl.DYNAMIC_DRAW);
  $("status").textContent = (selected ? selected.size + " selected of " : found ? found.size + " found of " : shown + " shown of ") + rows;
  $("export").disabled = !(selected || found);
  draw();
};

const chooser = $("colour");
chooser.append(new Option("one colour", ""));
columns.forEach((c, i) => chooser.append(new Option(c.name, String(i))));
chooser.onchange = () => { column = chooser.value === "" ? null : columns[Number(chooser.value)]; hidden.clear(); recolour(); restate(); };
$("size").oninput = (e) => { size = Number(e.target.value); draw(); };
$("size").value = String(size);
$("search").oninput = (e) => {
  const wanted = e.target.value.trim().toLowerCase();
  if (wanted === "") found = null;
  else { found = new Set(); for (let i = 0; i < rows; i++) if (texts[i].toLowerCase().includes(wanted) || ids[i] === wanted) found.add(i); }
  selected = null;
  restate();
};
const setMode = (next) => { mode = next; $("lasso").classList.toggle("on", mode === "lasso"); overlay.style.cursor = mode === "lasso" ? "crosshair" : "grab"; };
$("lasso").onclick = () => setMode(mode === "lasso" ? "move" : "lasso");
$("reset").onclick = () => { zoom = 1; panX = panY = 0; yaw = dims === 3 ? 0.6 : 0; pitch = dims === 3 ? 0.4 : 0; selected = null; found = null; lasso = null; hidden.clear(); $("search").value = ""; recolour(); restate(); };
const exported = () => [...(selected || found || [])].sort((a, b) => a - b).map((i) => {
  const row = { row_id: ids[i] };
  for (const c of columns) row[c.name] = c.kind === "category" ? (c.labels[c.values[i]] ?? null) : (Number.isNaN(c.values[i]) ? null : c.values[i]);
  return row;
});
$("export").onclick = () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(exported(), null, 1)], { type: "application/json" }));
  link.download = "selection.json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
};

const describeRow = (i, full) => {
  panel.replaceChildren(text("h2", "row " + ids[i]));
  const table = document.createElement("dl");
  const fields = full || Object.fromEntries(columns.map((c) => [c.name, c.kind === "category" ? c.labels[c.values[i]] : c.values[i]]));
  for (const [name, value] of Object.entries(fields)) if (name !== "text") table.append(text("dt", name), text("dd", typeof value === "object" ? JSON.stringify(value) : String(value)));
  panel.append(table, text("p", full && full.text !== undefined ? full.text : texts[i], "text"));
  panel.hidden = false;
};
const show = async (i) => {
  describeRow(i, null);
  if (!served) return;
  try {
    const answer = await fetch("row?i=" + i);
    if (answer.ok) describeRow(i, await answer.json());
  } catch { /* the file stays readable without its server */ }
};
let drag = null, hover = null;
overlay.onpointerdown = (e) => {
  overlay.setPointerCapture(e.pointerId);
  drag = { x: e.offsetX, y: e.offsetY, moved: false, shift: e.shiftKey || e.button === 2 };
  if (mode === "lasso") lasso = [[e.offsetX, e.offsetY]];
};
overlay.onpointermove = (e) => {
  if (drag) {
    const dx = e.offsetX - drag.x, dy = e.offsetY - drag.y;
    if (Math.abs(dx) + Math.abs(dy) > 2) drag.moved = true;
    if (mode === "lasso") lasso.push([e.offsetX, e.offsetY]);
    else if (dims === 3 && !drag.shift) { yaw += dx * 0.008; pitch = Math.max(-1.57, Math.min(1.57, pitch + dy * 0.008)); }
    else { panX += dx * 2 / canvas.clientWidth; panY -= dy * 2 / canvas.clientHeight; }
    if (mode !== "lasso") { drag.x = e.offsetX; drag.y = e.offsetY; }
    tip.hidden = true;
    draw();
    return;
  }
  const x = e.offsetX, y = e.offsetY;
  if (hover) return;
  hover = requestAnimationFrame(() => {
    hover = null;
    const i = pick(x, y);
    tip.hidden = i < 0;
    if (i < 0) return;
    const preview = texts[i].length > 160 ? texts[i].slice(0, 160) + "…" : texts[i];
    tip.textContent = preview;
    tip.style.left = Math.min(x + 14, canvas.clientWidth - 340) + "px";
    tip.style.top = (y + 14) + "px";
  });
};
overlay.onpointerup = (e) => {
  const was = drag;
  drag = null;
  if (mode === "lasso" && lasso && lasso.length > 2) {
    const m = viewMatrix(), w = canvas.clientWidth, h = canvas.clientHeight, polygon = lasso;
    selected = new Set();
    for (let i = 0; i < rows; i++) {
      if (column && column.kind === "category" && hidden.has(column.values[i])) continue;
      const [x, y] = screen(i, m, w, h);
      let inside = false;
      for (let a = 0, b = polygon.length - 1; a < polygon.length; b = a++) {
        const [ax, ay] = polygon[a], [bx, by] = polygon[b];
        if ((ay > y) !== (by > y) && x < (bx - ax) * (y - ay) / (by - ay) + ax) inside = !inside;
      }
      if (inside) selected.add(i);
    }
    lasso = null;
    setMode("move");
    restate();
    return;
  }
  lasso = null;
  if (was && !was.moved) { const i = pick(e.offsetX, e.offsetY); if (i >= 0) show(i); else { selected = null; panel.hidden = true; restate(); } }
};
overlay.oncontextmenu = (e) => e.preventDefault();
overlay.onpointerleave = () => { tip.hidden = true; };
overlay.onwheel = (e) => {
  e.preventDefault();
  const factor = Math.exp(-e.deltaY * 0.0015), next = Math.max(0.2, Math.min(400, zoom * factor)), applied = next / zoom;
  const x = e.offsetX / canvas.clientWidth * 2 - 1, y = 1 - e.offsetY / canvas.clientHeight * 2;
  panX = x - (x - panX) * applied; panY = y - (y - panY) * applied; zoom = next;
  draw();
};
addEventListener("resize", draw);
addEventListener("keydown", (e) => { if (e.target.tagName !== "INPUT" && e.key === "l") setMode("lasso"); if (e.key === "Escape") { setMode("move"); selected = null; panel.hidden = true; restate(); } });
const first = columns.findIndex((c) => c.name === "dataset" && c.labels.length > 1);
const other = columns.findIndex((c) => c.labels.length > 1 && c.labels.length <= 20);
const start = first >= 0 ? first : other;
if (start >= 0) { chooser.value = String(start); column = columns[start]; }
recolour();
restate();
// For tests and for the console.
window.chatspace = { rows, dims, screenOf: (i) => screen(i, viewMatrix(), canvas.clientWidth, canvas.clientHeight), pick, exported, frames: () => frames, scriptMs: () => scriptMs, draw, spin: (by) => { yaw += by; draw(); } };
})();
`;
