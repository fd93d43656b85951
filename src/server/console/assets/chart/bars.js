// Owns charts of bars: in groups, one for each item, and single ones for the points of a result.

import { svg } from "../page/dom.js";
import { cell } from "../pure/cell.js";
import { describePoint } from "../pure/points.js";
import { axisX, axisY, BOTTOM, frame, LEFT, RIGHT, TOP } from "./frame.js";

/** @import { Point } from "../pure/points.js" */
/** @import { Column } from "../pure/wire.js" */

/** Groups stay as narrow as if there were so many. */
const FEWEST = 12;
/** Pixels. */
const HEIGHT = 150;

/**
 * Bars, one group for each item.
 *
 * @template T
 * @param {T[]} items
 * @param {{
 *   width: number, label: string, name: (item: T) => string, title: (item: T) => string,
 *   series: ((item: T) => number)[],
 * }} options `name` stands below a group, `title` is shown when the pointer is on it; each of `series` gives one bar
 * @returns {SVGSVGElement}
 */
export function groupedBars(items, { width, label, name, title, series }) {
  const chart = frame(width, HEIGHT, label);
  const high = Math.max(1, ...items.flatMap((item) => series.map((valueOf) => valueOf(item))));
  const y = axisY(chart, width, HEIGHT, 0, high);
  const slot = (width - LEFT - RIGHT) / Math.max(items.length, FEWEST);
  const wide = Math.min(28, slot * 0.8) / series.length;
  items.forEach((item, at) => {
    const start = LEFT + slot * (at + 0.5) - (wide * series.length) / 2;
    const group = svg("g", { class: "group" }, svg("title", { text: title(item) }));
    // The pointer is on the group in all of its height, not on the bars only.
    const height = HEIGHT - BOTTOM - TOP;
    group.append(svg("rect", { class: "hit", x: LEFT + slot * at, y: TOP, width: slot, height }));
    series.forEach((valueOf, number) => {
      const top = y(valueOf(item));
      group.append(svg("rect", {
        class: `bar series-${number}`, x: start + wide * number, y: top,
        width: Math.max(wide - 0.5, 0.5), height: Math.max(HEIGHT - BOTTOM - top, 0),
      }));
    });
    chart.append(group);
  });
  axisX(chart, width, HEIGHT, items.map(name), (at) => LEFT + slot * (at + 0.5));
  return chart;
}

/**
 * One bar for each point, from zero up or down.
 *
 * @param {Point[]} points
 * @param {Column} column of x
 * @param {{ width: number, height: number, label: string }} options
 * @returns {SVGSVGElement}
 */
export function barChart(points, column, { width, height, label }) {
  const ys = points.map((point) => point.y);
  const chart = frame(width, height, label);
  const scale = axisY(chart, width, height, Math.min(0, ...ys), Math.max(0, ...ys));
  const slot = (width - LEFT - RIGHT) / points.length;
  const wide = Math.max(0.5, Math.min(48, slot * 0.8));
  points.forEach((point, at) => {
    const [from, to] = [scale(0), scale(point.y)];
    chart.append(svg("g", { class: "group" },
      svg("title", { text: describePoint(point, column) }),
      svg("rect", {
        class: "bar series-0", x: LEFT + slot * (at + 0.5) - wide / 2, y: Math.min(from, to),
        width: wide, height: Math.max(Math.abs(to - from), 0.5),
      })));
  });
  const names = points.map((point) => cell(point.x, column.type));
  axisX(chart, width, height, names, (at) => LEFT + slot * (at + 0.5));
  return chart;
}
