// Charts: plain SVG, coloured by classes.

import { el, svg } from "./dom.js";
import { cell, compact } from "./format.js";

const LEFT = 52;
const RIGHT = 12;
const TOP = 10;
const BOTTOM = 24;

/** About five round numbers from `low` to `high`. */
function ticks(low, high) {
  const rough = (high - low || Math.abs(high) || 1) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const found = [];
  // Zero is added to be without a sign.
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-9; at++) found.push(at * step + 0);
  return found;
}

function frame(width, height, label) {
  return svg("svg", { class: "chart", width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
}

function axisY(chart, width, height, low, high) {
  const bottom = height - BOTTOM;
  const scale = (value) => bottom - ((value - low) / (high - low || 1)) * (bottom - TOP);
  for (const tick of ticks(low, high)) {
    const y = scale(tick);
    chart.append(
      svg("line", { class: "rule", x1: LEFT, x2: width - RIGHT, y1: y, y2: y }),
      svg("text", { class: "label", x: LEFT - 6, y: y + 4, "text-anchor": "end", text: compact(tick) }));
  }
  return scale;
}

/** Names below the axis, as many as there is room for. */
function axisX(chart, width, height, names, x) {
  const longest = Math.min(13, Math.max(...names.map((name) => name.length)));
  const room = (width - LEFT - RIGHT) / (longest * 7 + 16);
  const every = Math.max(1, Math.ceil(names.length / room));
  names.forEach((name, at) => {
    if (at % every !== 0) return;
    const text = name.length > 13 ? `${name.slice(0, 12)}…` : name;
    const label = svg("text", { class: "label", x: x(at), y: height - 7, "text-anchor": "middle", text });
    label.append(svg("title", { text: name }));
    chart.append(label);
  });
}

/**
 * Bars, one group for each item, `width` pixels wide. `series`: of each its `name` and `of(item)`; `title(item)` is told of a group.
 */
export function bars(items, { width, name, title, series, label, height = 150 }) {
  const chart = frame(width, height, label);
  const high = Math.max(1, ...items.flatMap((item) => series.map((one) => one.of(item))));
  const y = axisY(chart, width, height, 0, high);
  const slot = (width - LEFT - RIGHT) / Math.max(items.length, 12);
  const wide = Math.min(28, slot * 0.8) / series.length;
  items.forEach((item, at) => {
    const start = LEFT + slot * (at + 0.5) - (wide * series.length) / 2;
    const group = svg("g", { class: "group" }, svg("title", { text: title(item) }));
    // All of its height tells, not only the bar.
    group.append(svg("rect", { class: "hit", x: LEFT + slot * at, y: TOP, width: slot, height: height - BOTTOM - TOP }));
    series.forEach((one, number) => {
      const top = y(one.of(item));
      group.append(svg("rect", {
        class: `bar series-${number}`, x: start + wide * number, y: top,
        width: Math.max(wide - 0.5, 0.5), height: Math.max(height - BOTTOM - top, 0),
      }));
    });
    chart.append(group);
  });
  axisX(chart, width, height, items.map(name), (at) => LEFT + slot * (at + 0.5));
  return chart;
}

/** What the colours stand for. */
export function legend(names) {
  return el("p", { class: "legend" },
    ...names.map((name, number) => el("span", { class: `key series-${number}`, text: name })));
}

/** A number that a column's value is, or not a number. */
function number(value) {
  if (typeof value === "number") return value;
  if (typeof value !== "string" || value === "") return NaN;
  return Number(value);
}

const isTime = (column) => column.type.startsWith("TIMESTAMP") || column.type === "DATE";

/**
 * A chart of two columns of a result: points of a line in the order of x where that is a number or a time, bars in the
 * order of the rows. Nothing if there is nothing to draw.
 */
export function plot({ columns, rows }, { width, x, y, kind }) {
  const points = rows.map((row) => ({ x: row[x], y: number(row[y]) })).filter((point) => Number.isFinite(point.y));
  if (points.length === 0) return null;
  const label = `${kind === "line" ? "Line" : "Bars"}: ${columns[y].name} by ${columns[x].name}, ${points.length} points`;
  const draw = kind === "line" ? lines : columnsOf;
  return draw(points, columns[x], width, label);
}

function columnsOf(points, column, width, label) {
  const height = 260;
  const low = Math.min(0, ...points.map((point) => point.y));
  const high = Math.max(0, ...points.map((point) => point.y));
  const chart = frame(width, height, label);
  const scale = axisY(chart, width, height, low, high);
  const slot = (width - LEFT - RIGHT) / points.length;
  const wide = Math.max(0.5, Math.min(48, slot * 0.8));
  points.forEach((point, at) => {
    const [from, to] = [scale(0), scale(point.y)];
    chart.append(svg("g", { class: "group" },
      svg("title", { text: `${cell(point.x, column.type)}: ${point.y}` }),
      svg("rect", {
        class: "bar series-0", x: LEFT + slot * (at + 0.5) - wide / 2, y: Math.min(from, to),
        width: wide, height: Math.max(Math.abs(to - from), 0.5),
      })));
  });
  axisX(chart, width, height, points.map((point) => cell(point.x, column.type)), (at) => LEFT + slot * (at + 0.5));
  return chart;
}

function lines(points, column, width, label) {
  const height = 260;
  const place = isTime(column) ? (value) => Date.parse(value) : number;
  const has = points.every((point) => Number.isFinite(place(point.x)));
  const placed = points.map((point, at) => ({ ...point, at: has ? place(point.x) : at }));
  placed.sort((one, other) => one.at - other.at);
  const ys = placed.map((point) => point.y);
  const chart = frame(width, height, label);
  const [low, high] = [Math.min(...ys), Math.max(...ys)];
  const margin = low === high ? Math.abs(low) / 2 || 1 : 0;
  const scaleY = axisY(chart, width, height, Math.min(low - margin, low > 0 && low < high / 2 ? 0 : low), high + margin);
  const [first, last] = [placed[0].at, placed.at(-1).at];
  const scaleX = (at) => LEFT + ((at - first) / (last - first || 1)) * (width - LEFT - RIGHT);
  const path = placed.map((point, at) => `${at ? "L" : "M"}${scaleX(point.at).toFixed(1)},${scaleY(point.y).toFixed(1)}`);
  chart.append(svg("path", { class: "line series-0", d: path.join("") }));
  if (placed.length <= 200) {
    for (const point of placed) {
      chart.append(svg("circle", { class: "dot series-0", cx: scaleX(point.at), cy: scaleY(point.y), r: 2.5 },
        svg("title", { text: `${cell(point.x, column.type)}: ${point.y}` })));
    }
  }
  const room = Math.max(2, Math.min(placed.length, Math.floor((width - LEFT - RIGHT) / (isTime(column) ? 150 : 90))));
  const shown = Array.from({ length: Math.min(room, placed.length) },
    (_, part) => placed[Math.round((part / Math.max(room - 1, 1)) * (placed.length - 1))]);
  // Of times in one day the day is not said.
  const day = (point) => String(point.x).slice(0, 10);
  const isOneDay = column.type.startsWith("TIMESTAMP") && placed.every((point) => day(point) === day(placed[0]));
  shown.forEach((point, at) => {
    const anchor = at === 0 ? "start" : at === shown.length - 1 ? "end" : "middle";
    const text = cell(point.x, column.type).slice(isOneDay ? 11 : 0);
    chart.append(svg("text", {
      class: "label", x: scaleX(point.at), y: height - 7, "text-anchor": anchor,
      text: text.length > 19 ? `${text.slice(0, 18)}…` : text,
    }));
  });
  return chart;
}
