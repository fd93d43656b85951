// Owns what is kept in this browser. One that keeps nothing, or has no room, forgets it with the page.

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
