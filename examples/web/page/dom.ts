// Finding and creating elements of the page.

import { icon } from './icons.js';
import type { IconName } from './icons.js';

/** The element with this id, which the page has. */
export function byId<T extends HTMLElement>(id: string, type: abstract new (...args: never[]) => T): T {
  const element = document.getElementById(id);
  if (!(element instanceof type)) throw new Error(`the page lacks #${id}`);
  return element;
}

export function setText(id: string, text: string): void {
  byId(id, HTMLElement).textContent = text;
}

export function show(id: string, shown: boolean): void {
  byId(id, HTMLElement).hidden = !shown;
}

/** Announces a text to screen readers. */
export function say(text: string): void {
  setText('said', text);
}

export function megabytes(bytes: number): string {
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB` : `${(bytes / 1e9).toFixed(1)} GB`;
}

/** An element with a class and children. Strings become text. */
export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K, className = '', ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

/** A button with a text. */
export function textButton(text: string, className: string, action: () => void): HTMLButtonElement {
  const button = make('button', className, text);
  button.type = 'button';
  button.onclick = action;
  return button;
}

/** A button with an icon and the accessible name `label`. */
export function iconButton(name: IconName, label: string, className: string, action: (button: HTMLButtonElement) => void): HTMLButtonElement {
  const button = make('button', `icon ${className}`, icon(name));
  button.type = 'button';
  button.title = label;
  button.ariaLabel = label;
  button.onclick = () => action(button);
  return button;
}

/** Briefly confirms an action on its button. */
export function confirmOn(button: HTMLButtonElement, done: string): void {
  if (button.classList.contains('done')) return;
  const { ariaLabel, title } = button;
  const before = [...button.childNodes];
  button.classList.add('done');
  button.replaceChildren(icon('check'), make('span', 'tip', done));
  button.ariaLabel = done;
  button.title = '';
  say(done);
  setTimeout(() => {
    button.classList.remove('done');
    button.replaceChildren(...before);
    Object.assign(button, { ariaLabel, title });
  }, 1600);
}

/** Copies a text to the clipboard. Returns whether it succeeded. */
export async function copyText(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Insecure pages have no clipboard API, and some users forbid it: the older way needs neither.
    const field = make('textarea', 'hidden');
    field.value = text;
    (document.querySelector('dialog[open]') ?? document.body).append(field);
    const focused = document.activeElement;
    field.select();
    const copied = document.execCommand('copy');
    field.remove();
    if (focused instanceof HTMLElement) focused.focus();
    return copied;
  }
}

/** Lets the browser save a file. */
export function download(name: string, type: string, contents: string): void {
  const url = URL.createObjectURL(new Blob([contents], { type }));
  const link = make('a');
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
