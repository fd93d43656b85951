// Owns the colours of SQL in the editor.

import { nextPart } from "../pure/sql-tokens.js";
import { HighlightStyle, StreamLanguage, syntaxHighlighting, tags } from "../vendor/codemirror.js";

/** @import { Extension, StreamParser } from "../vendor/codemirror.js" */
/** @import { Open } from "../pure/sql-tokens.js" */

/** The tag of the editor for each kind of token that has a colour. */
const TAGS = {
  keyword: tags.keyword, type: tags.typeName, function: tags.name, quoted: tags.variableName, text: tags.string,
  number: tags.number, comment: tags.comment, parameter: tags.atom,
};

const STYLE = HighlightStyle.define([
  { tag: tags.keyword, class: "sql-keyword" },
  { tag: tags.typeName, class: "sql-type" },
  { tag: tags.name, class: "sql-function" },
  { tag: tags.variableName, class: "sql-quoted" },
  { tag: tags.string, class: "sql-text" },
  { tag: tags.number, class: "sql-number" },
  { tag: tags.comment, class: "sql-comment" },
  { tag: tags.atom, class: "sql-parameter" },
]);

/** @type {StreamParser<{ open: Open }>} */
const PARSER = {
  name: "sql",
  startState: () => ({ open: "" }),
  token(stream, state) {
    const part = nextPart(stream.string, stream.pos, state.open);
    stream.pos = part.end;
    state.open = part.open;
    return part.kind !== null && Object.hasOwn(TAGS, part.kind) ? part.kind : null;
  },
  tokenTable: TAGS,
  languageData: { commentTokens: { line: "--", block: { open: "/*", close: "*/" } } },
};

/**
 * @returns {Extension}
 */
export function sqlLanguage() {
  return [StreamLanguage.define(PARSER), syntaxHighlighting(STYLE)];
}
