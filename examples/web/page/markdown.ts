// Markdown of models' answers, as elements. A model's text is untrusted: HTML in it is shown as text, the rendered rest
// passes through DOMPurify, and nothing is fetched (an image becomes a link).

import DOMPurify from 'dompurify';
import { Marked } from 'marked';
import { confirmOn, copyText, iconButton, make } from './dom.js';

const escape = (text: string) => text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);

const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    html: ({ text }) => escape(text),
    image: ({ href, text }) => `<a href="${escape(href)}">${escape(text || href)}</a>`,
    checkbox: ({ checked }) => (checked ? '☑ ' : '☐ '),
  },
});

const ALLOWED = {
  ALLOWED_TAGS: [
    'p', 'br', 'hr', 'h1', 'h2', 'h3', 'h4', 'h5', 'h6', 'strong', 'em', 'del', 'code', 'pre', 'blockquote', 'ul', 'ol', 'li', 'a',
    'table', 'thead', 'tbody', 'tr', 'th', 'td',
  ],
  ALLOWED_ATTR: ['href', 'title', 'start', 'align', 'class'],
  // Values that are not addresses.
  ADD_URI_SAFE_ATTR: ['align', 'start'],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  ALLOW_DATA_ATTR: false,
  RETURN_DOM_FRAGMENT: true as const,
};

/** The blocks of a text (paragraphs, lists, code, …) in source form. */
function blocksOf(text: string): string[] {
  const tokens = marked.lexer(text);
  // A link may be defined in another block than the one that uses it.
  if (Object.keys(tokens.links).length > 0) return [text];
  return tokens.filter(({ type }) => type !== 'space').map(({ raw }) => raw);
}

function elementsOf(block: string): DocumentFragment {
  const html = marked.parse(block, { async: false }).trim();
  const fragment = DOMPurify.sanitize(html, ALLOWED);
  for (const link of fragment.querySelectorAll('a')) {
    link.target = '_blank';
    link.rel = 'noopener noreferrer';
  }
  for (const element of fragment.querySelectorAll('[class]')) {
    if (!/^language-[\w+#.-]+$/.test(element.className)) element.removeAttribute('class');
  }
  // The page has its own headings above these.
  for (const heading of fragment.querySelectorAll('h1, h2, h3, h4, h5, h6')) {
    const level = Math.min(6, Number(heading.tagName.slice(1)) + 3);
    heading.setAttribute('role', 'heading');
    heading.setAttribute('aria-level', String(level));
  }
  for (const table of fragment.querySelectorAll('table')) {
    const frame = make('div', 'table');
    frame.tabIndex = 0;
    frame.role = 'region';
    frame.ariaLabel = 'Table';
    table.replaceWith(frame);
    frame.append(table);
  }
  for (const pre of fragment.querySelectorAll('pre')) frameCode(pre);
  return fragment;
}

/** Adds a bar with the language and a copy button to code. */
function frameCode(pre: HTMLPreElement): void {
  const code = pre.querySelector('code') ?? pre;
  code.textContent = (code.textContent ?? '').replace(/\n$/, '');
  const language = /^language-(.+)$/.exec(code.className)?.[1] ?? '';
  const copy = iconButton('copy', 'Copy code', 'copy-code', (button) => {
    void copyText(code.textContent ?? '').then((copied) => confirmOn(button, copied ? 'Copied' : 'Not allowed'));
  });
  const bar = make('div', 'bar', make('span', 'language', language || 'text'), copy);
  const frame = make('div', 'code');
  pre.tabIndex = 0;
  pre.role = 'region';
  pre.ariaLabel = language ? `Code, ${language}` : 'Code';
  pre.replaceWith(frame);
  frame.append(bar, pre);
}

/** Renders growing Markdown: unchanged blocks keep their elements, including selections. */
export class Markdown {
  readonly element: HTMLElement;
  #blocks: { raw: string; nodes: ChildNode[] }[] = [];

  constructor(element: HTMLElement) {
    this.element = element;
  }

  show(text: string): void {
    const blocks = blocksOf(text);
    let same = 0;
    while (same < blocks.length && this.#blocks[same]?.raw === blocks[same]) same++;
    for (const { nodes } of this.#blocks.splice(same)) nodes.forEach((node) => node.remove());
    for (const raw of blocks.slice(same)) {
      const fragment = elementsOf(raw);
      const nodes = [...fragment.childNodes];
      this.element.append(fragment);
      this.#blocks.push({ raw, nodes });
    }
  }
}
