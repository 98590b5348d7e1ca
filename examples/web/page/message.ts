// A message of the log and its actions.

import { confirmOn, copyText, iconButton, make, textButton } from './dom.js';
import { Markdown } from './markdown.js';

/** Actions of a message; an omitted one is not available. */
export interface Actions {
  copy?: () => string;
  regenerate?: () => void;
  /** Called with the new text. Returns whether it is accepted now; until then it stays in its field. */
  edit?: (text: string) => boolean;
  /** Index of its branch, from 0, and the number of branches. */
  branch?: { at: number; of: number; go: (to: number) => void };
}

/** A message in the log. */
export interface Shown {
  element: HTMLElement;
  setText(text: string): void;
  /** Waiting indicator in place of a text. */
  wait(text: string): void;
  remark(text: string): void;
  busy(busy: boolean): void;
}

const ENDINGS: Record<string, string> = {
  stopped: 'stopped',
  'max-tokens': 'cut off: the length limit is reached',
  'context-full': 'cut off: the context is full',
  failed: 'cut off by an error',
};

/** How an answer ended, for people; empty if it ended by itself. */
export function ending(reason: string | undefined): string {
  return (reason && ENDINGS[reason]) || '';
}

/** An element for a user's or model's message. A user's is shown as typed. */
export function message(id: string, role: string, who: string, text: string, actions: Actions): Shown {
  const mine = role === 'user';
  const heading = make('h3', mine ? 'who hidden' : 'who', who);
  const body = make('div', 'text');
  const waiting = make('div', 'waiting');
  waiting.hidden = true;
  const remark = make('span', 'remark');
  const footer = make('footer', '');
  const element = make('article', role, heading, body, waiting, footer);
  element.dataset.id = id;
  const markdown = mine ? undefined : new Markdown(body);
  let now = text;
  let frame = 0;
  const draw = () => {
    frame = 0;
    if (markdown) markdown.show(now);
    else body.textContent = now;
  };
  draw();
  footer.append(...buttons(actions, element, body, () => now, mine), remark);
  return {
    element,
    setText: (text) => {
      now = text;
      waiting.hidden = true;
      // Several pieces often arrive within one frame.
      frame ||= requestAnimationFrame(draw);
    },
    wait: (text) => {
      waiting.hidden = false;
      waiting.replaceChildren(make('span', 'dots', make('i'), make('i'), make('i')), text);
    },
    remark: (text) => (remark.textContent = text),
    busy: (busy) => {
      if (frame) cancelAnimationFrame(frame);
      draw();
      waiting.hidden = true;
      element.classList.toggle('busy', busy);
    },
  };
}

function buttons(actions: Actions, element: HTMLElement, body: HTMLElement, text: () => string, mine: boolean): HTMLElement[] {
  const made: HTMLElement[] = [];
  const { branch, copy, edit, regenerate } = actions;
  if (copy) {
    made.push(iconButton('copy', 'Copy', 'copy', (button) => {
      void copyText(copy()).then((copied) => confirmOn(button, copied ? 'Copied' : 'Not allowed'));
    }));
  }
  if (edit) made.push(iconButton('edit', 'Edit', 'edit', (button) => change(element, body, text(), mine, edit, button)));
  if (regenerate) made.push(iconButton('again', 'Answer again', 'regenerate', regenerate));
  // At the outer edge, so that it doesn't move when other buttons appear.
  if (branch && branch.of > 1) made.splice(mine ? made.length : 0, 0, switcher(branch));
  return made;
}

/** Arrows to the previous and next branch. */
function switcher({ at, of, go }: NonNullable<Actions['branch']>): HTMLElement {
  const before = iconButton('left', 'Previous version', 'before', () => go(at - 1));
  const after = iconButton('right', 'Next version', 'after', () => go(at + 1));
  before.disabled = at === 0;
  after.disabled = at === of - 1;
  const place = make('span', 'place', `${at + 1} / ${of}`);
  const element = make('span', 'branches', before, place, after);
  element.role = 'group';
  element.ariaLabel = `Version ${at + 1} of ${of}`;
  return element;
}

/** Replaces a message's text by a field until it is saved or cancelled. */
function change(
  element: HTMLElement, body: HTMLElement, text: string, mine: boolean, save: (text: string) => boolean, button: HTMLButtonElement,
): void {
  const field = make('textarea', '');
  field.value = text;
  field.ariaLabel = 'Edit the message';
  const leave = () => {
    form.remove();
    element.classList.remove('editing');
    button.focus();
  };
  const submit = make('button', 'primary', mine ? 'Send' : 'Save');
  const form = make('form', 'editor', field, make('div', 'row end', textButton('Cancel', '', leave), submit));
  const fit = () => {
    field.style.height = 'auto';
    field.style.height = `${field.scrollHeight + 2}px`;
  };
  form.onsubmit = (event) => {
    event.preventDefault();
    const now = field.value.trim();
    if (!now) return field.focus();
    if ((now === text.trim() && !mine) || save(now)) leave();
  };
  field.oninput = fit;
  field.onkeydown = (event) => {
    if (event.key === 'Escape') {
      event.stopPropagation();
      leave();
    }
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing || (!mine && !event.ctrlKey && !event.metaKey)) return;
    event.preventDefault();
    form.requestSubmit();
  };
  element.classList.add('editing');
  body.after(form);
  fit();
  field.focus();
}
