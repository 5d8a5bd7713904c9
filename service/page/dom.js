// Small things that every part of the page needs.

export const at = (id) => document.getElementById(id);

/** A share as a person reads it: no digits that say nothing. */
export function percent(share) {
  if (share > 0.9995) return "100%";
  return share < 0.0005 ? "0%" : `${(100 * share).toFixed(1)}%`;
}

export function element(name, text) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Give a select its options, [value, text] each, and choose `value` or else the first. */
export function fill(select, options, value) {
  select.replaceChildren(...options.map(([key, text]) => new Option(text, key)));
  select.value = value;
  if (select.selectedIndex < 0) select.selectedIndex = 0;
}

/** Let the buttons that name an element in `data-copies` copy its text. */
export function letCopy() {
  for (const button of document.querySelectorAll("[data-copies]")) {
    const name = button.textContent;
    button.addEventListener("click", async () => {
      const code = at(button.dataset.copies);
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(code); // to be copied by hand
        button.textContent = "Selected: copy it";
      }
      setTimeout(() => { button.textContent = name; }, 1500);
    });
  }
}
