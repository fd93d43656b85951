// Owns the changes of a run: published and computed rows side by side, one kind at a time.

import { el, setAttribute, setText } from "../page/dom.js";
import { problem } from "../page/notices.js";
import { Refused } from "../pure/answers.js";
import { changesOf, valueText } from "../pure/changes.js";
import { AT_ONCE, eased } from "../pure/eased.js";
import { count, plural } from "../pure/format.js";
import { path } from "../pure/route.js";
import { KINDS } from "../pure/runs.js";
import { get } from "../server/api.js";

/** @import { Change, FieldValue } from "../pure/changes.js" */
/** @import { Run } from "../pure/wire.js" */

const TITLES = ["Key", "Published", "This run"];
const NONE_DIFFERS = "All rows are published as they are.";
const NOT_KEPT = "These rows are not kept: only a plan keeps them, until some time after the end of its run.";

/**
 * The changes. `load` reads those of the chosen kind if the run has moved.
 *
 * @param {string} runId
 * @param {() => void} again refreshes the view, which shows that the server does not answer
 * @returns {{ node: HTMLElement, load: (run: Run) => Promise<void> }}
 */
export function runChanges(runId, again) {
  /** @type {string | null} */
  let chosen = null;
  const body = el("div", {});
  const buttons = KINDS.map(([kind, meaning]) => el("button", {
    type: "button", title: meaning, "aria-pressed": "false", on: { click: () => choose(kind) },
  }));
  const none = el("p", { class: "empty", text: "Nothing is compared yet." });
  const all = el("div", { hidden: true },
    el("div", { class: "buttons kinds", role: "group", "aria-label": "Kinds of rows" }, ...buttons), body);
  const read = eased(async () => {
    if (chosen === null) return;
    try {
      body.replaceChildren(shown(await get(`/runs${path(runId)}/changes${path(chosen)}`), chosen));
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      body.replaceChildren(problem(error));
    }
  }, () => performance.now());

  /**
   * @param {string} kind
   * @returns {void}
   */
  function choose(kind) {
    chosen = kind;
    press();
    read(AT_ONCE).catch(again);
  }

  /** @returns {void} */
  function press() {
    buttons.forEach((button, at) => setAttribute(button, "aria-pressed", String(KINDS[at][0] === chosen)));
  }

  return {
    node: el("section", {}, el("h2", { text: "Changes" }), none, all),
    async load(run) {
      const isCompared = run.same !== null || run.changed !== null;
      all.hidden = !isCompared;
      none.hidden = isCompared;
      if (!isCompared) return;
      buttons.forEach((button, at) => {
        const [kind] = KINDS[at];
        setText(button, `${count(run[kind])} ${kind}`);
        // Rows that are the same are counted, and not kept.
        button.disabled = kind === "same" || !run[kind];
      });
      chosen ??= KINDS.find(([kind]) => kind !== "same" && run[kind])?.[0] ?? null;
      press();
      if (chosen === null) body.replaceChildren(el("p", { class: "empty", text: NONE_DIFFERS }));
      await read([run.state, chosen, ...KINDS.map(([kind]) => run[kind])].join("/"));
    },
  };
}

/**
 * @param {import("../pure/wire.js").Rows} found
 * @param {string} kind
 * @returns {HTMLElement}
 */
function shown(found, kind) {
  const { changes, total } = changesOf(found);
  if (changes.length === 0) return el("p", { class: "empty", text: NOT_KEPT });
  const summary = changes.length < total
    ? `${count(changes.length)} of ${plural(total, "row")}.` : `${plural(total, "row")}.`;
  return el("div", {},
    el("p", { class: "summary", text: summary }),
    el("div", { class: "scroll", role: "region", "aria-label": `Rows that are ${kind}`, tabindex: "0" },
      el("table", { class: "grid sides-by-side" },
        el("thead", {}, el("tr", {}, ...TITLES.map((text) => el("th", { scope: "col", text })))),
        el("tbody", {}, ...changes.map(changeRow)))));
}

/**
 * @param {Change} change
 * @returns {HTMLElement}
 */
function changeRow({ key, range, window, before, after }) {
  return el("tr", {},
    el("th", { scope: "row", title: `chunk ${range}` },
      key, window ? el("p", { class: "summary", text: window }) : null),
    el("td", {}, side(before, "del")), el("td", {}, side(after, "ins")));
}

/**
 * One side of a change: the fields that differ stand first and are marked.
 *
 * @param {FieldValue[] | null} fields
 * @param {"del" | "ins"} mark
 * @returns {HTMLElement}
 */
function side(fields, mark) {
  if (fields === null) return el("span", { class: "null", text: "no row" });
  const ordered = [...fields.filter((field) => field.differs), ...fields.filter((field) => !field.differs)];
  return el("dl", { class: "fields" }, ...ordered.flatMap(({ name, value, differs }) => [
    el("dt", { text: name }),
    el("dd", {}, differs ? el(mark, { text: valueText(value) }) : valueText(value)),
  ]));
}
