// Owns the values that the browser keeps for the page. A browser without storage, or without room, keeps none.

/**
 * @param {string} key
 * @returns {string | null} the value, or null if there is none
 */
export function read(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

/**
 * @param {string} key
 * @param {string} value
 * @returns {void}
 */
export function keep(key, value) {
  try {
    localStorage.setItem(key, value);
  } catch {
    // The page works without it.
  }
}
