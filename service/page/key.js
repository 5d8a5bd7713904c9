// API key of a service that asks for one. It is forgotten when the tab is closed.

const NAME = "limelight.api-key";

export const key = () => sessionStorage.getItem(NAME) ?? "";

/** Keep a key; an empty one is forgotten. */
export function keep(text) {
  if (text) sessionStorage.setItem(NAME, text);
  else sessionStorage.removeItem(NAME);
}

/** Return the headers that a request needs. */
export const authorization = () => (key() ? { Authorization: `Bearer ${key()}` } : {});
