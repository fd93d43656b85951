// Owns charts of a line.

import { svg } from "../page/dom.js";
import { shortened } from "../pure/format.js";
import { axisLabel, describePoint, isTime, placedPoints } from "../pure/points.js";
import { linear, lineBounds, spread } from "../pure/scale.js";
import { axisY, frame, LEFT, RIGHT } from "./frame.js";

/** @import { Point } from "../pure/points.js" */
/** @import { Column } from "../pure/wire.js" */

/** With more points no dots are drawn. */
const MOST_DOTS = 200;
/** The longest label below the axis, in characters. */
const LONGEST = 19;

/**
 * A line through points, in the order of x where that is a number or a time.
 *
 * @param {Point[]} points at least one
 * @param {Column} column of x
 * @param {{ width: number, height: number, label: string }} options
 * @returns {SVGSVGElement}
 */
export function lineChart(points, column, { width, height, label }) {
  const placed = placedPoints(points, column);
  const chart = frame(width, height, label);
  const scaleY = axisY(chart, width, height, ...lineBounds(placed.map((point) => point.y)));
  const [first, last] = [placed[0], placed[placed.length - 1]];
  const scaleX = linear(first.at, last.at, LEFT, width - RIGHT);
  const path = placed.map((point, at) =>
    `${at ? "L" : "M"}${scaleX(point.at).toFixed(1)},${scaleY(point.y).toFixed(1)}`);
  chart.append(svg("path", { class: "line series-0", d: path.join("") }));
  if (placed.length <= MOST_DOTS) {
    for (const point of placed) {
      chart.append(svg("circle", { class: "dot series-0", cx: scaleX(point.at), cy: scaleY(point.y), r: 2.5 },
        svg("title", { text: describePoint(point, column) })));
    }
  }
  const room = Math.max(2, Math.floor((width - LEFT - RIGHT) / (isTime(column) ? 150 : 90)));
  const shown = spread(placed, room);
  const labelOf = axisLabel(placed, column);
  shown.forEach((point, at) => {
    const anchor = at === 0 ? "start" : at === shown.length - 1 ? "end" : "middle";
    const text = shortened(labelOf(point), LONGEST);
    chart.append(svg("text", { class: "label", x: scaleX(point.at), y: height - 7, "text-anchor": anchor, text }));
  });
  return chart;
}
