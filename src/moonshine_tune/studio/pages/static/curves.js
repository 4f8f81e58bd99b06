// A small chart: lines over steps, with values read by pointer or arrow keys.

import { h, s } from "./dom.js";

const WIDTH = 560;
const HEIGHT = 220;
const BOX = { left: 44, right: 14, top: 14, bottom: 28 };

const format = (value) => String(Number(value.toPrecision(3)));

/** About `wanted` round numbers from 0 or `low` to `high`. */
function ticks(low, high, wanted) {
  const rough = (high - low || 1) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const result = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step / 1e6; value += step) result.push(value);
  return result;
}

/**
 * @param title what the chart shows
 * @param xName what lies on the horizontal axis
 * @param series `{name, kind, points: [[x, y]], dots}`; kind is a class: first, second
 * @param end the last x that is expected, so that the curve grows into its room
 */
export function chart({ title, unit = "", xName, series, end = 0 }) {
  const lines = series.map((line) => ({ ...line, points: line.points.filter(([, y]) => Number.isFinite(y)) })).filter((line) => line.points.length);
  const readout = h("span", { class: "readout", "aria-live": "off" });
  const figure = h("figure", { class: "plot" }, h("figcaption", {}, h("span", { class: "plot-title" }, title, unit ? h("span", { class: "quiet" }, ` ${unit}`) : null), readout));
  if (!lines.length) {
    figure.append(h("p", { class: "quiet plot-empty" }, "Comes with the first steps."));
    return figure;
  }
  const all = lines.flatMap((line) => line.points);
  const xs = [...new Set(all.map(([x]) => x))].sort((a, b) => a - b);
  const [left, right] = [Math.min(0, xs[0]), Math.max(end, xs.at(-1), xs[0] + 1)];
  const top = Math.max(...all.map(([, y]) => y)) * 1.06 || 1;
  const x = (value) => BOX.left + ((value - left) / (right - left)) * (WIDTH - BOX.left - BOX.right);
  const y = (value) => HEIGHT - BOX.bottom - (value / top) * (HEIGHT - BOX.top - BOX.bottom);
  const svg = s("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, tabindex: 0, role: "img", "aria-label": `${title}: ${lines.map(({ name, points }) => `${name} from ${format(points[0][1])} to ${format(points.at(-1)[1])}`).join(", ")}` });
  for (const value of ticks(0, top, 4)) {
    svg.append(s("line", { class: value ? "grid" : "axis", x1: BOX.left, x2: WIDTH - BOX.right, y1: y(value), y2: y(value) }),
      s("text", { x: BOX.left - 8, y: y(value) + 4, "text-anchor": "end" }, format(value)));
  }
  for (const value of ticks(left, right, 5)) svg.append(s("text", { x: x(value), y: HEIGHT - 8, "text-anchor": "middle" }, format(value)));
  for (const { kind, points, dots } of lines) {
    svg.append(s("path", { class: `line ${kind}`, d: points.map(([a, b], index) => `${index ? "L" : "M"}${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join("") }));
    if (dots || points.length === 1) for (const [a, b] of points) svg.append(s("circle", { class: `dot ${kind}`, cx: x(a), cy: y(b), r: 3 }));
  }
  const marks = s("g", {});
  svg.append(marks);
  let at = xs.length - 1;
  const show = (drawn) => {
    marks.replaceChildren();
    const values = lines.flatMap(({ name, points }) => {
      const point = points.find(([value]) => value === xs[at]);
      if (!point) return [];
      if (drawn) marks.append(s("circle", { class: "point", cx: x(point[0]), cy: y(point[1]), r: 4 }));
      return [lines.length > 1 ? `${name} ${format(point[1])}` : format(point[1])];
    });
    if (drawn) marks.append(s("line", { class: "cross", x1: x(xs[at]), x2: x(xs[at]), y1: BOX.top, y2: HEIGHT - BOX.bottom }));
    readout.textContent = `${xName} ${format(xs[at])}: ${values.join(", ")}`;
  };
  const rest = () => { at = xs.length - 1; show(false); };
  svg.addEventListener("pointermove", (event) => {
    const bounds = svg.getBoundingClientRect();
    const near = ((event.clientX - bounds.left) * WIDTH) / bounds.width;
    at = xs.reduce((best, value, index) => (Math.abs(x(value) - near) < Math.abs(x(xs[best]) - near) ? index : best), 0);
    show(true);
  });
  svg.addEventListener("pointerleave", rest);
  svg.addEventListener("blur", rest);
  svg.addEventListener("keydown", (event) => {
    const next = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: xs.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    at = Math.max(0, Math.min(xs.length - 1, next));
    show(true);
  });
  rest();
  figure.append(svg);
  if (lines.length > 1) figure.append(h("p", { class: "legend" }, lines.map(({ name, kind }) => [h("span", { class: `key-dot ${kind}` }), name])));
  return figure;
}
