// Formulas in text of a model: where they stand, as Markdown is read, and MathML of them. Temml makes
// elements, no markup, and is not told to trust; what it cannot read is shown as it was written.
import temml from "./vendor/temml.js";

const DISPLAYED = /^ {0,3}(?:\$\$(?:(?!\$\$)[^]){1,4000}\$\$|\\\[(?:(?!\\\])[^]){1,4000}\\\])[ \t]*(?:\n|$)/;
const BEGINNING = /\n {0,3}(?:\$\$|\\\[)/;
// A dollar sign is a price where a space follows it, stands before the second one, or a digit behind that.
const INLINE = /^(?:\\\([^]{1,2000}?\\\)|\\\[[^]{1,2000}?\\\]|\$\$(?:[^$\\]|\\[^]){1,2000}?\$\$|\$(?![\s$])(?:[^$\\\n`]|\\[^\n]){1,500}?(?<!\s)\$(?![\d$]))/;
const DISPLAY_MARKS = /^(?:\$\$|\\\[)/;
const LIMITS = { throwOnError: true, maxExpand: 200, maxSize: [5, 5] };
const NEAR = 2000; // As far as a formula is looked for, so that giant texts are read once, not again and again.

function token(name, pattern, source) {
  const raw = pattern.exec(source)?.[0];
  return raw && { type: name, raw, text: raw.trim() };
}

/** Extensions of marked; `escaped` makes a text safe within markup. */
export function mathsExtensions(escaped) {
  const renderer = ({ text }) => `<span class="math-${DISPLAY_MARKS.test(text) ? "block" : "inline"}">${escaped(text)}</span>`;
  return [
    { name: "formula", level: "block", renderer, start: (source) => BEGINNING.exec(source.slice(0, NEAR))?.index,
      tokenizer: (source) => token("formula", DISPLAYED, source) },
    { name: "inlineFormula", level: "inline", renderer, start: (source) => /\$|\\[([]/.exec(source.slice(0, NEAR))?.index,
      tokenizer: (source) => token("inlineFormula", INLINE, source) },
  ];
}

/** Makes MathML of the formulas below an element. */
export function showFormulas(root) {
  for (const box of root.querySelectorAll(".math-block, .math-inline")) {
    const source = box.textContent;
    const marks = source.startsWith("$") && !source.startsWith("$$") ? 1 : 2;
    const displayMode = box.classList.contains("math-block");
    try {
      temml.render(source.slice(marks, -marks), box, { ...LIMITS, displayMode });
    } catch {
      box.textContent = source;
    }
  }
}
