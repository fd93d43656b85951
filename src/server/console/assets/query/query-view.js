// Owns the query view: runs the statement in the editor and shows the result. There is one, which goes on working
// while other views are shown.

import { el, setText } from "../page/dom.js";
import { tell } from "../page/notices.js";
import { StatementRun } from "../page/statement-run.js";
import { Refused } from "../pure/answers.js";
import { count, milliseconds } from "../pure/format.js";
import { wrongPart } from "../pure/place.js";
import { get } from "../server/api.js";
import { errorView } from "./error-view.js";
import { historyList } from "./history-list.js";
import { LiveResult } from "./live-result.js";
import { resultView } from "./result-view.js";
import { StatementEditor } from "./statement-editor.js";

/** @import { View } from "../page/view.js" */
/** @import { Entry } from "../pure/history.js" */
/** @import { Answer } from "../pure/wire.js" */

/** Rows that can be asked for. */
const LIMITS = [100, 1_000, 10_000];
const DEFAULT_LIMIT = 1_000;
/** Milliseconds after which the clock of a statement is changed. */
const TICK = 100;

/** @type {QueryPage | null} */
let page = null;

/**
 * @param {HTMLElement} root
 * @returns {View}
 */
export function queryView(root) {
  page ??= new QueryPage();
  root.append(page.node);
  page.editor.focus({ preventScroll: true });
  return { refresh: () => get("/about") };
}

/**
 * Writes a statement into the editor.
 *
 * @param {string} sql
 * @returns {void}
 */
export function writeQuery(sql) {
  page ??= new QueryPage();
  page.write(sql);
}

/** The editor with its buttons, its result and its history. */
class QueryPage {
  editor = new StatementEditor();
  #statement = new StatementRun();
  #run = el("button", { type: "button", class: "primary", text: "Run", on: { click: () => this.#start() } });
  #cancel = el("button", {
    type: "button", text: "Cancel", disabled: true, on: { click: () => this.#statement.cancel() },
  });
  #limit = el("select", { id: "limit" },
    ...LIMITS.map((rows) => el("option", { value: String(rows), text: count(rows) })));
  #clock = el("span", { class: "clock" });
  #wrong = el("div", {});
  #result = el("section", { class: "result", "aria-label": "Result" });
  #history = historyList((sql) => {
    this.write(sql);
    this.editor.focus();
  });

  node = el("div", { class: "query" },
    el("div", { class: "heading" }, el("h1", { id: "query-title", text: "Query" })),
    this.editor.node,
    el("div", { class: "bar" },
      el("div", { class: "buttons" }, this.#run, this.#cancel),
      el("label", { for: "limit", text: "Rows" }), this.#limit, this.#clock, keys()),
    this.#wrong, this.#result, this.#history.node);

  constructor() {
    this.#limit.value = String(DEFAULT_LIMIT);
    this.node.addEventListener("keydown", (event) => {
      // Escape has closed the list of names.
      if (event.defaultPrevented) return;
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        this.#start();
      } else if (event.key === "Escape" && this.#statement.isRunning) {
        event.preventDefault();
        this.#statement.cancel();
      }
    });
  }

  /**
   * Replaces the text in the editor.
   *
   * @param {string} sql
   * @returns {void}
   */
  write(sql) {
    this.editor.write(sql);
    this.#wrong.replaceChildren();
  }

  /**
   * Runs the selection, or all of the text, and shows what came of it.
   *
   * @returns {Promise<void>}
   */
  async #start() {
    if (this.#statement.isRunning) return;
    const { sql, at } = this.editor.chosen();
    const began = performance.now();
    const passed = () => Math.round(performance.now() - began);
    /** @type {Entry} */
    const entry = { sql, at: new Date().toISOString() };
    const most = Number(this.#limit.value);
    const live = new LiveResult(most);
    const running = this.#statement.run(sql, most, (line) => {
      if (!live.hasBegun) this.#result.replaceChildren(...live.nodes);
      live.take(line);
    });
    this.#run.disabled = true;
    this.#cancel.disabled = false;
    this.#wrong.replaceChildren();
    this.editor.showWrong(null);
    this.editor.closeCompletion();
    const tick = () => setText(this.#clock, `running, ${milliseconds(passed())}`);
    const ticking = setInterval(tick, TICK);
    tick();
    try {
      entry.said = this.#showAnswer(await running, live);
    } catch (error) {
      // Rows that have come stay.
      entry.said = live.hasBegun ? live.said : "failed";
      if (!live.hasBegun) this.#result.replaceChildren();
      this.#showError(error, sql, at);
    }
    live.end();
    clearInterval(ticking);
    entry.milliseconds = passed();
    setText(this.#clock, milliseconds(entry.milliseconds));
    this.#run.disabled = false;
    // A button that is disabled loses the focus.
    if (document.activeElement === this.#cancel) this.#run.focus();
    this.#cancel.disabled = true;
    this.#history.remember(entry);
    if (entry.said !== "failed") tell(`${entry.said}, ${milliseconds(entry.milliseconds)}`);
  }

  /**
   * Shows an answer that came whole; gives a short text for what came of the statement.
   *
   * @param {Answer | null} answer
   * @param {LiveResult} live the one that came in lines
   * @returns {string}
   */
  #showAnswer(answer, live) {
    if (!answer) return live.said;
    const { nodes, said } = resultView(answer);
    this.#result.replaceChildren(...nodes);
    return said;
  }

  /**
   * @param {unknown} error
   * @param {string} sql
   * @param {number} at its offset in the text
   * @returns {void}
   */
  #showError(error, sql, at) {
    const { text } = this.editor;
    const part = error instanceof Refused && error.from ? wrongPart(text, sql, at, error.from, error.to) : null;
    if (part) {
      this.editor.showWrong(part);
      if (this.editor.mayTakeFocus()) this.editor.mark(part);
    }
    this.#wrong.replaceChildren(errorView(error, text, part, (wrong) => this.editor.mark(wrong)));
  }
}

/**
 * The keys of the editor, in words.
 *
 * @returns {HTMLElement}
 */
function keys() {
  return el("span", { id: "sql-keys", class: "keys" },
    el("kbd", { text: "Ctrl" }), "+", el("kbd", { text: "Enter" }), " runs the selection or all, ",
    el("kbd", { text: "Esc" }), " cancels, ",
    el("kbd", { text: "Ctrl" }), "+", el("kbd", { text: "Space" }), " offers names");
}
