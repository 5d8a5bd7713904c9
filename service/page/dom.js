// DOM helpers that every part of the page uses.

export const at = (id) => document.getElementById(id);

/** Format a share as a percentage with one decimal; values near 0 and 1 have none. */
export function percent(share) {
  if (share > 0.9995) return "100%";
  return share < 0.0005 ? "0%" : `${(100 * share).toFixed(1)}%`;
}

export function element(name, text) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Set the options of a select, each [value, text]; select `value`, or else the first. */
export function fill(select, options, value) {
  select.replaceChildren(...options.map(([key, text]) => new Option(text, key)));
  select.value = value;
  if (select.selectedIndex < 0) select.selectedIndex = 0;
}

/** Make each button with `data-copies` copy the text of the element it names. */
export function enableCopyButtons() {
  for (const button of document.querySelectorAll("[data-copies]")) {
    const name = button.textContent;
    button.addEventListener("click", async () => {
      const code = at(button.dataset.copies);
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(code); // the user can then copy by hand
        button.textContent = "Selected: copy it";
      }
      setTimeout(() => { button.textContent = name; }, 1500);
    });
  }
}
