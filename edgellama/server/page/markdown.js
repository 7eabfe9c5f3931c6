// Text of a model as elements. It is not trusted: HTML in it is shown as text, what the libraries
// make of the rest is sanitized, and pictures become links, so that nothing is fetched.
import { Marked } from "./vendor/marked.js";
import DOMPurify from "./vendor/purify.js";
import highlighter from "./vendor/highlight.js";
import bash from "./vendor/languages/bash.js";
import c from "./vendor/languages/c.js";
import cpp from "./vendor/languages/cpp.js";
import css from "./vendor/languages/css.js";
import diff from "./vendor/languages/diff.js";
import go from "./vendor/languages/go.js";
import ini from "./vendor/languages/ini.js";
import java from "./vendor/languages/java.js";
import javascript from "./vendor/languages/javascript.js";
import json from "./vendor/languages/json.js";
import python from "./vendor/languages/python.js";
import rust from "./vendor/languages/rust.js";
import sql from "./vendor/languages/sql.js";
import typescript from "./vendor/languages/typescript.js";
import xml from "./vendor/languages/xml.js";
import yaml from "./vendor/languages/yaml.js";
import { button, copyText, element } from "./dom.js";
import { mathsExtensions, showFormulas } from "./maths.js";

const LANGUAGES = { bash, c, cpp, css, diff, go, ini, java, javascript, json, python, rust, sql, typescript, xml, yaml };
for (const [name, grammar] of Object.entries(LANGUAGES)) highlighter.registerLanguage(name, grammar);
const MOST_HIGHLIGHTED = 20_000;

const escaped = (text) =>
  text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);

function codeBlock({ text, lang }) {
  const language = (lang ?? "").trim().split(/\s/)[0].toLowerCase();
  const known = language && text.length < MOST_HIGHLIGHTED && highlighter.getLanguage(language);
  const inside = known ? highlighter.highlight(text, { language, ignoreIllegals: true }).value : escaped(text);
  const label = /^[\w+#.-]{1,30}$/.test(language) ? ` class="language-${escaped(language)}"` : "";
  return `<pre><code${label}>${inside}</code></pre>`;
}

const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    html: ({ text }) => escaped(text),
    image: ({ href, text }) => `<a href="${escaped(href)}">${escaped(text || href)}</a>`,
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
    code: codeBlock,
  },
  extensions: mathsExtensions(escaped),
});

const PURIFY = {
  ALLOWED_TAGS: [
    "a", "b", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i",
    "li", "ol", "p", "pre", "span", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
  ],
  ALLOWED_ATTR: ["href", "title", "class", "start", "align"],
  ALLOWED_URI_REGEXP: /^(?:https?:|mailto:)/i,
  ADD_URI_SAFE_ATTR: ["start", "align"], // Their values are no addresses.
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

DOMPurify.addHook("uponSanitizeAttribute", (node, data) => {
  if (data.attrName === "class") {
    data.attrValue = data.attrValue.split(/\s+/).filter((name) => /^(hljs|language|math)-/.test(name)).join(" ");
    data.keepAttr = data.attrValue !== "";
  }
});
DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.nodeName === "A") {
    node.setAttribute("rel", "noopener noreferrer nofollow");
    node.setAttribute("target", "_blank");
  }
});

function finished(fragment) {
  for (const pre of fragment.querySelectorAll("pre")) {
    const code = pre.querySelector("code");
    const language = code?.className.match(/language-(\S+)/)?.[1] ?? "";
    const copy = button("Copy", () => copyText(pre.textContent.replace(/\n$/, ""), copy), {
      "aria-label": "Copy the code",
    });
    const box = element("div", { class: "code" }, element("div", { class: "row" },
      element("span", { class: "grow" }, language), copy));
    pre.replaceWith(box);
    pre.tabIndex = 0;
    box.append(pre);
  }
  for (const table of fragment.querySelectorAll("table")) {
    const box = element("div", { class: "table" });
    table.replaceWith(box);
    box.append(table);
  }
  for (const each of fragment.querySelectorAll("ul, ol, blockquote, table")) each.dir = "auto";
  showFormulas(fragment);
  return fragment;
}

/** A text that grows: only blocks that changed are made anew. */
export class MarkdownView {
  constructor(target) {
    this.target = target;
    this.blocks = [];
  }

  /** Shows the text; gives the text of blocks that are whole now and were not before. */
  update(text) {
    const tokens = marked.lexer(text);
    const links = JSON.stringify(tokens.links);
    const blocks = tokens.filter((token) => token.type !== "space");
    const numBefore = this.blocks.length;
    blocks.forEach((token, index) => {
      const known = this.blocks[index];
      if (known && known.raw === token.raw && known.links === links) return;
      const list = Object.assign([token], { links: tokens.links });
      const box = element("div", { class: "block" });
      box.append(finished(DOMPurify.sanitize(marked.parser(list), PURIFY)));
      if (known) known.box.replaceWith(box);
      else this.target.append(box);
      this.blocks[index] = { raw: token.raw, links, box };
    });
    for (const { box } of this.blocks.splice(blocks.length)) box.remove();
    return this.blocks.slice(Math.max(0, numBefore - 1), -1).map(({ box }) => box.textContent);
  }

  get lastText() {
    return this.blocks.at(-1)?.box.textContent ?? "";
  }
}
