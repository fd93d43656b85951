// Owns which part of the editor's text is run, and how names and texts are written in SQL.

/**
 * The selection, or all of the text if there is none. `marked` is a selection that the page has made to show an error:
 * it is not meant to be run.
 *
 * @param {string} text
 * @param {[number, number]} selection
 * @param {[number, number] | null} marked
 * @returns {{ sql: string, at: number }} the statement, and its offset in the text
 */
export function statementToRun(text, [start, end], marked) {
  const isMarked = marked !== null && marked[0] === start && marked[1] === end;
  const chosen = isMarked ? "" : text.slice(start, end);
  return chosen.trim() ? { sql: chosen, at: start } : { sql: text, at: 0 };
}

/**
 * A name as SQL takes it literally.
 *
 * @param {string} name
 * @returns {string}
 */
export function quoted(name) {
  return `"${name.replaceAll('"', '""')}"`;
}

/**
 * A text as SQL takes it literally.
 *
 * @param {string} text
 * @returns {string}
 */
export function literal(text) {
  return `'${text.replaceAll("'", "''")}'`;
}
