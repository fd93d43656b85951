// The editor: runs a statement, shows its rows as a table or a chart, or where it is wrong. There is one, which goes on
// working while other views are looked at.

import { get, post, Refused } from "./api.js";
import { plot } from "./chart.js";
import { announce, el, setText, tell } from "./dom.js";
import { count, milliseconds, plural, time } from "./format.js";
import { grid } from "./grid.js";

const DRAFT = "anabranch.draft";
const HISTORY = "anabranch.history";
const MOST_KEPT = 50;
const EXAMPLE = "SELECT job, batch, rows_in, rows_out, milliseconds\nFROM system.batches\nORDER BY committed_at DESC\nLIMIT 100";

let editor = null;

/** The view. */
export function queryView(root) {
  editor ??= makeEditor();
  root.append(editor.node);
  editor.shown();
  return { refresh: () => get("/about") };
}

/** Opens the editor with a statement. */
export function writeQuery(sql) {
  editor ??= makeEditor();
  editor.write(sql);
  location.hash = "#/query";
}

function makeEditor() {
  let running = null;
  let answer = null;
  /** What was selected to show where an error is, and not to be run. */
  let marked = null;

  const text = el("textarea", {
    id: "sql", class: "sql", rows: "9", spellcheck: "false", autocapitalize: "off", autocomplete: "off", wrap: "off",
    "aria-describedby": "sql-keys",
  });
  const gutter = el("div", { class: "gutter", "aria-hidden": "true" });
  const run = el("button", { type: "button", class: "primary", text: "Run", on: { click: start } });
  const cancel = el("button", { type: "button", text: "Cancel", disabled: true, on: { click: stop } });
  const limit = el("select", { id: "limit" },
    ...[100, 1_000, 10_000].map((rows) => el("option", { value: String(rows), text: count(rows) })));
  limit.value = "1000";
  const clock = el("span", { class: "clock" });
  const wrong = el("div", {});
  const result = el("section", { class: "result", "aria-label": "Result" });
  const past = el("ol", { class: "history" });
  const clear = el("button", { type: "button", class: "quiet", text: "Forget all", on: { click: forget } });
  const node = el("div", { class: "query" },
    el("div", { class: "heading" }, el("h1", {}, el("label", { for: "sql", text: "Query" }))),
    el("div", { class: "editor" }, gutter, text),
    el("div", { class: "bar" },
      el("div", { class: "buttons" }, run, cancel),
      el("label", { for: "limit", text: "Rows" }), limit, clock,
      el("span", { id: "sql-keys", class: "keys" },
        el("kbd", { text: "Ctrl" }), "+", el("kbd", { text: "Enter" }), " runs the selection or all, ", el("kbd", { text: "Esc" }), " cancels")),
    wrong, result,
    el("details", { class: "part" }, el("summary", {}, el("h2", { text: "History" })),
      el("p", { class: "summary" }, "Kept in this browser only. ", clear), past));

  text.value = read(DRAFT) ?? EXAMPLE;
  text.addEventListener("input", () => { marked = null; keep(DRAFT, text.value); drawGutter(); });
  text.addEventListener("scroll", () => { gutter.scrollTop = text.scrollTop; });
  node.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      start();
    } else if (event.key === "Escape" && running) {
      event.preventDefault();
      stop();
    }
  });
  drawHistory();
  drawGutter();

  function drawGutter(wrongLine = null) {
    const lines = text.value.split("\n").length;
    gutter.replaceChildren(...Array.from({ length: lines }, (_, at) =>
      el("span", { class: at + 1 === wrongLine ? "wrong" : null, text: String(at + 1) })));
    gutter.scrollTop = text.scrollTop;
  }

  async function start() {
    if (running) return;
    const isMarked = marked?.[0] === text.selectionStart && marked?.[1] === text.selectionEnd;
    const chosen = isMarked ? "" : text.value.slice(text.selectionStart, text.selectionEnd);
    const [sql, from] = chosen.trim() ? [chosen, text.selectionStart] : [text.value, 0];
    const began = performance.now();
    running = { id: newId() };
    run.disabled = true;
    cancel.disabled = false;
    wrong.replaceChildren();
    drawGutter();
    const tick = () => setText(clock, `running, ${milliseconds(Math.round(performance.now() - began))}`);
    const ticking = setInterval(tick, 100);
    tick();
    const entry = { sql, at: new Date().toISOString() };
    try {
      answer = await post("/query", { sql, id: running.id, rows: Number(limit.value) });
      entry.said = showAnswer();
    } catch (error) {
      entry.said = "failed";
      showError(error, sql, from);
    }
    clearInterval(ticking);
    const took = Math.round(performance.now() - began);
    entry.milliseconds = took;
    setText(clock, milliseconds(took));
    running = null;
    run.disabled = false;
    // The button that loses the focus would take it along.
    if (document.activeElement === cancel) run.focus();
    cancel.disabled = true;
    remember(entry);
    if (entry.said !== "failed") tell(`${entry.said}, ${milliseconds(took)}`);
  }

  async function stop() {
    if (!running) return;
    const { id } = running;
    // It may not have arrived yet.
    for (let tries = 0; tries < 3 && running?.id === id; tries++) {
      try {
        if ((await post("/query/cancel", { id })).stopped) return;
      } catch (error) {
        announce(error.message, true);
        return;
      }
      await new Promise((resolve) => setTimeout(resolve, 300));
    }
    if (running?.id === id) announce("What changes tables or jobs is not stopped half-way.", true);
  }

  /** Shows the rows; gives how many. */
  function showAnswer() {
    const { columns, rows, is_cut, rows_written, warnings } = answer;
    const all = rows_written !== null ? `${plural(rows_written, "row")} written` : plural(rows.length, "row");
    const said = is_cut ? `the first ${all}, there are more` : all;
    const table = el("div", {});
    const status = columns.length === 1 && columns[0].name === "status" && answer.has_changed;
    if (status) table.append(...rows.map(([line]) => el("p", { class: "said", text: line })));
    else table.append(grid(answer, { label: "Rows" }));
    const heading = status ? "Done" : said;
    result.replaceChildren(
      el("div", { class: "heading" }, el("h2", { class: is_cut ? "cut" : null, text: heading })),
      ...warnings.map((warning) => el("p", { class: "note", text: warning })),
      table);
    if (!status && rows_written === null && rows.length > 0) result.append(chartOf(answer));
    return status ? "done" : said;
  }

  function showError(error, sql, from) {
    result.replaceChildren();
    answer = null;
    const box = el("div", { class: "problem", role: "alert" }, el("p", { class: "message", text: error.message }));
    if (error instanceof Refused && error.from) {
      const [start, end] = [offset(sql, error.from), Math.max(offset(sql, error.to), offset(sql, error.from) + 1)].map((at) => at + from);
      const before = text.value.slice(0, start).split("\n");
      const [line, column] = [before.length, [...before.at(-1)].length + 1];
      const source = text.value.split("\n")[line - 1];
      const wide = Math.max(1, [...text.value.slice(start, end).split("\n")[0]].length);
      const pad = [...before.at(-1)].map((c) => (c === "\t" ? "\t" : " ")).join("");
      box.append(
        el("pre", { class: "place", text: `${source}\n${pad}${"^".repeat(wide)}` }),
        el("p", {}, el("button", {
          type: "button", class: "link", text: `line ${line}, column ${column}`,
          on: { click: () => mark(start, end) },
        })));
      drawGutter(line);
      if (document.activeElement === text || document.activeElement === document.body) mark(start, end);
    }
    if (error.help) box.append(el("p", { class: "help", text: error.help }));
    wrong.replaceChildren(box);
  }

  function mark(start, end) {
    text.focus();
    text.setSelectionRange(start, end);
    marked = [start, end];
  }

  function remember(entry) {
    const all = [entry, ...history().filter((one) => one.sql !== entry.sql)].slice(0, MOST_KEPT);
    keep(HISTORY, JSON.stringify(all));
    drawHistory();
  }

  function forget() {
    keep(HISTORY, "[]");
    drawHistory();
    announce("the history is forgotten");
  }

  function drawHistory() {
    const all = history();
    clear.disabled = all.length === 0;
    past.replaceChildren(...all.map((entry) => el("li", {},
      el("button", { type: "button", class: "past", on: { click: () => write(entry.sql, true) } },
        el("code", { text: entry.sql.trim() })),
      el("span", { class: "summary", text: [time(entry.at.slice(0, 19)), entry.said, milliseconds(entry.milliseconds)].join(" · ") }))));
  }

  function write(sql, isNear = false) {
    text.value = sql;
    keep(DRAFT, sql);
    wrong.replaceChildren();
    drawGutter();
    if (isNear) text.focus();
  }

  return {
    node,
    write,
    shown() {
      gutter.scrollTop = text.scrollTop;
      text.focus({ preventScroll: true });
    },
  };
}

/** A chart of two of the columns, which can be chosen. */
function chartOf(answer) {
  const { columns } = answer;
  const numbers = columns.map((column, at) => ({ column, at })).filter(({ column }) => column.is_number);
  if (numbers.length === 0) return el("div", {});
  const options = (of) => of.map(({ column, at }) => el("option", { value: String(at), text: column.name }));
  const all = columns.map((column, at) => ({ column, at }));
  const kind = el("select", { id: "chart-kind" }, el("option", { value: "line", text: "Line" }), el("option", { value: "bar", text: "Bars" }));
  const x = el("select", { id: "chart-x" }, ...options(all));
  const y = el("select", { id: "chart-y" }, ...options(numbers));
  const first = numbers.find(({ at }) => at !== 0) ?? numbers[0];
  y.value = String(first.at);
  x.value = String(all.find(({ at }) => at !== first.at)?.at ?? 0);
  const xColumn = columns[Number(x.value)];
  kind.value = xColumn.is_number || xColumn.type.startsWith("TIMESTAMP") || xColumn.type === "DATE" ? "line" : "bar";
  const place = el("figure", {});
  const draw = () => {
    const width = Math.max(240, place.clientWidth - 24);
    const drawn = plot(answer, { width, kind: kind.value, x: Number(x.value), y: Number(y.value) });
    place.replaceChildren(drawn ?? el("p", { class: "empty", text: "There is no number in this column." }));
  };
  const details = el("details", { class: "part" }, el("summary", {}, el("h2", { text: "Chart" })),
    el("div", { class: "bar" },
      el("label", { for: "chart-kind", text: "Kind" }), kind,
      el("label", { for: "chart-x", text: "x" }), x,
      el("label", { for: "chart-y", text: "y" }), y),
    place);
  for (const one of [kind, x, y]) one.addEventListener("change", draw);
  let width = 0;
  new ResizeObserver(([{ contentRect }]) => {
    if (details.open && contentRect.width !== width) draw();
    width = contentRect.width;
  }).observe(place);
  return details;
}

/** Where a line and a column, which count characters from 1, are in a text. */
function offset(text, { line, column }) {
  const lines = text.split("\n");
  const before = lines.slice(0, line - 1).reduce((all, one) => all + one.length + 1, 0);
  return before + [...(lines[line - 1] ?? "")].slice(0, column - 1).join("").length;
}

/** A name that nobody else can guess. */
function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function history() {
  try {
    const all = JSON.parse(read(HISTORY) ?? "[]");
    return Array.isArray(all) ? all.filter((one) => typeof one?.sql === "string" && typeof one.at === "string") : [];
  } catch {
    return [];
  }
}

function read(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

/** A browser that keeps nothing, or has no room: it is forgotten with the page. */
function keep(key, value) {
  try {
    localStorage.setItem(key, value);
  } catch {
    // As said.
  }
}
