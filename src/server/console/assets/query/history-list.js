// Owns the list of past statements, which the browser keeps.

import { el } from "../page/dom.js";
import { announce } from "../page/notices.js";
import { keep, read } from "../page/storage.js";
import { closedPart } from "../page/view.js";
import { milliseconds, time } from "../pure/format.js";
import { parseHistory, remembered } from "../pure/history.js";

/** @import { Entry } from "../pure/history.js" */

const HISTORY = "anabranch.history";

/**
 * The list. `remember` adds a statement.
 *
 * @param {(sql: string) => void} choose is called with the statement that the user chooses
 * @returns {{ node: HTMLElement, remember: (entry: Entry) => void }}
 */
export function historyList(choose) {
  const past = el("ol", { class: "history" });
  const clear = el("button", { type: "button", class: "quiet", text: "Forget all", on: { click: forget } });
  const node = closedPart("History",
    el("p", { class: "summary" }, "Kept in this browser only. ", clear), past);
  draw();

  /** @returns {void} */
  function draw() {
    const all = parseHistory(read(HISTORY));
    clear.disabled = all.length === 0;
    past.replaceChildren(...all.map((entry) => item(entry, choose)));
  }

  /** @returns {void} */
  function forget() {
    keep(HISTORY, "[]");
    draw();
    announce("the history is forgotten");
  }

  return {
    node,
    remember(entry) {
      keep(HISTORY, JSON.stringify(remembered(parseHistory(read(HISTORY)), entry)));
      draw();
    },
  };
}

/**
 * @param {Entry} entry
 * @param {(sql: string) => void} choose
 * @returns {HTMLElement}
 */
function item(entry, choose) {
  const said = [time(entry.at.slice(0, 19)), entry.said, milliseconds(entry.milliseconds)].join(" · ");
  return el("li", {},
    el("button", { type: "button", class: "past", on: { click: () => choose(entry.sql) } },
      el("code", { text: entry.sql.trim() })),
    el("span", { class: "summary", text: said }));
}
