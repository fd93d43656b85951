// Owns the view of a result: the number of rows, warnings, and the rows as a table and as a chart.

import { el } from "../page/dom.js";
import { resultTable } from "../page/result-table.js";
import { describeRows, isStatus } from "../pure/result.js";
import { resultChart } from "./result-chart.js";

/** @import { Answer } from "../pure/wire.js" */

/**
 * The elements for a result, and a short text for what came of the statement.
 *
 * @param {Answer} answer
 * @returns {{ nodes: HTMLElement[], said: string }}
 */
export function resultView(answer) {
  const said = isStatus(answer) ? "done" : describeRows(answer);
  /** @type {HTMLElement[]} */
  const nodes = [
    el("div", { class: "heading" },
      el("h2", { class: answer.is_cut ? "cut" : null, text: isStatus(answer) ? "Done" : said })),
    ...answer.warnings.map((warning) => el("p", { class: "note", text: warning })),
  ];
  if (isStatus(answer)) {
    nodes.push(el("div", {}, ...answer.rows.map(([line]) => el("p", { class: "said", text: String(line) }))));
    return { nodes, said };
  }
  nodes.push(el("div", {}, resultTable(answer, { label: "Rows" })));
  const chart = answer.rows_written === null && answer.rows.length > 0 ? resultChart(answer) : null;
  if (chart) nodes.push(chart);
  return { nodes, said };
}
